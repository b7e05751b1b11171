package main

import "google.golang.org/protobuf/encoding/protowire"

// field is one field of a message: bytes or a number.
type field struct {
	number protowire.Number
	bytes  []byte
	value  uint64
}

// fields calls back for each field of a message, without a copy.
func fields(message []byte, each func(field)) error {
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return protowire.ParseError(size)
		}
		message = message[size:]
		found := field{number: number}
		switch kind {
		case protowire.BytesType:
			found.bytes, size = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			found.value, size = protowire.ConsumeVarint(message)
		default:
			size = protowire.ConsumeFieldValue(number, kind, message)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		message = message[size:]
		each(found)
	}
	return nil
}

func appendBytes(to []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), value)
}

func appendText(to []byte, number protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(to, number, protowire.BytesType), value)
}

func appendNumber(to []byte, number protowire.Number, value int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(to, number, protowire.VarintType), uint64(value))
}

package main

import "google.golang.org/grpc"

// etcd is Watch and Put. A client is level when its watch is made and a read
// has told that there is nothing newer than what it has; a client without a
// value reads it.
type etcd struct{}

func (etcd) watch() (string, *grpc.StreamDesc) {
	return "/etcdserverpb.Watch/Watch", &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
}

func (etcd) opening(_ int, key string, have *held) [][]byte {
	create := appendText(nil, 1, key)
	if have.revision > 0 {
		create = appendNumber(create, 3, have.revision+1)
	}
	return [][]byte{appendBytes(nil, 1, create)}
}

const minModRevision = 10

func (etcd) check(key string, have *held) *call {
	request := appendText(nil, 1, key)
	if have.revision > 0 {
		request = appendNumber(request, minModRevision, have.revision+1)
	}
	return &call{"/etcdserverpb.KV/Range", request}
}

func (etcd) scan(message []byte, found *seen) error {
	return fields(message, func(f field) {
		switch f.number {
		case 1:
			_ = fields(f.bytes, func(f field) {
				if f.number == 3 {
					found.revision = int64(f.value)
				}
			})
		case 3:
			found.created = f.value != 0
		case 11:
			found.change = true
		}
	})
}

func (e etcd) create(key string) call { return e.put(key, "Begin.") }

func (etcd) put(key, value string) call {
	return call{"/etcdserverpb.KV/Put", appendText(appendText(nil, 1, key), 2, value)}
}

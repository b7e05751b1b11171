package main

import (
	"encoding/binary"
	"fmt"
	"net/url"

	"golang.org/x/net/http2/hpack"
)

// data takes a DATA frame: messages, or parts of one.
func (c *conn) data(number uint32, flags byte, body []byte) error {
	flow := len(body)
	if flags&flagPadded != 0 {
		body = body[1 : len(body)-int(body[0])]
	}
	made := c.calls[number]
	c.unread += flow
	if c.unread >= c.window/2 {
		c.windowUpdate(0, c.unread)
		c.unread = 0
	}
	if made != nil {
		made.unread += flow
		if made.unread >= c.window/2 && flags&flagEndStream == 0 {
			c.windowUpdate(number, made.unread)
			made.unread = 0
		}
		if err := c.messages(number, made, body); err != nil {
			return err
		}
		if flags&flagEndStream != 0 {
			c.end(number, made.status, made.text)
		}
	}
	return c.flush()
}

func (c *conn) messages(number uint32, made *exchange, body []byte) error {
	whole := len(made.partial) == 0
	if !whole {
		made.partial = append(made.partial, body...)
		body = made.partial
	}
	for len(body) >= grpcHead {
		if body[0] != 0 {
			return fmt.Errorf("a compressed message")
		}
		size := grpcHead + int(binary.BigEndian.Uint32(body[1:]))
		if len(body) < size {
			break
		}
		c.waiting = append(c.waiting, happening{call: number, message: body[grpcHead:size:size]})
		body = body[size:]
	}
	if whole {
		made.partial = append(made.partial, body...)
	} else if len(body) == 0 {
		// The messages are parts of it: it is not to be written over.
		made.partial = nil
	} else {
		made.partial = append([]byte(nil), body...)
	}
	return nil
}

// block takes a HEADERS or a CONTINUATION frame.
func (c *conn) block(kind, flags byte, number uint32, body []byte) error {
	if kind == frameHeaders {
		if flags&flagPadded != 0 {
			body = body[1 : len(body)-int(body[0])]
		}
		if flags&flagPriority != 0 {
			body = body[5:]
		}
		c.decoding = c.calls[number]
		c.ending = flags&flagEndStream != 0
	}
	if _, err := c.decoder.Write(body); err != nil {
		return err
	}
	if flags&flagEndHeaders == 0 {
		return nil
	}
	if err := c.decoder.Close(); err != nil {
		return err
	}
	if made := c.decoding; made != nil && c.ending {
		c.end(number, made.status, made.text)
	}
	return nil
}

func (c *conn) header(field hpack.HeaderField) {
	if c.decoding == nil {
		return
	}
	switch field.Name {
	case "grpc-status":
		c.decoding.status = field.Value
	case "grpc-message":
		c.decoding.text = field.Value
		if text, err := url.PathUnescape(field.Value); err == nil {
			c.decoding.text = text
		}
	}
}

func (c *conn) end(number uint32, status, text string) {
	if _, is := c.calls[number]; is {
		delete(c.calls, number)
		c.waiting = append(c.waiting, happening{call: number, ended: true, status: status, text: text})
	}
}

func (c *conn) settings(flags byte, body []byte) error {
	if flags&flagAck != 0 {
		return nil
	}
	for ; len(body) >= settingSize; body = body[settingSize:] {
		value := binary.BigEndian.Uint32(body[2:])
		switch binary.BigEndian.Uint16(body) {
		case settingTableSize:
			c.encoder.SetMaxDynamicTableSize(min(value, headerTableBytes))
		case settingWindow:
			for _, made := range c.calls {
				made.send += int(value) - c.sendEach
			}
			c.sendEach = int(value)
		}
	}
	c.frame(frameSettings, flagAck, 0, 0)
	return c.flush()
}

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2/hpack"
)

// Numbers of HTTP/2 (RFC 9113) and of gRPC over it.
const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameHead    = 9
	frameDataMax = 16_384
	grpcHead     = 5

	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameGoAway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagAck        = 0x1
	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingTableSize = 0x1
	settingWindow    = 0x4
	settingSize      = 6
	headerTableBytes = 4_096
	windowDefault    = 65_535
)

const (
	windowBytes     = windowDefault
	readBufferBytes = 18 << 10
	dialTimeout     = 30 * time.Second
)

var errGone = errors.New("the server closes the connection")

// happening is what comes of a call: a message, or its end with a status.
// The message is valid until the next one is read.
type happening struct {
	call    uint32
	message []byte
	ended   bool
	status  string
	text    string
}

// exchange is one call that is under way.
type exchange struct {
	partial []byte
	unread  int
	send    int
	status  string
	text    string
}

// conn is one connection of gRPC, as plain frames: it costs the machine that
// it shares with the server as little as can be. One goroutine uses it.
type conn struct {
	net.Conn
	plain     net.Conn
	reader    *bufio.Reader
	authority string
	encoder   *hpack.Encoder
	encoded   bytes.Buffer
	decoder   *hpack.Decoder
	decoding  *exchange
	ending    bool
	out       []byte
	body      []byte
	calls     map[uint32]*exchange
	nextCall  uint32
	window    int
	unread    int
	send      int
	sendEach  int
	waiting   []happening
}

// dial connects. The server may send `window` bytes ahead of what is read.
func dial(address string, window int, secure bool) (*conn, error) {
	socket, err := net.DialTimeout("tcp", address, dialTimeout)
	if err != nil {
		return nil, err
	}
	plain := socket
	if secure {
		// It is a load, not a client that has something to lose.
		socket = tls.Client(socket, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	}
	made := &conn{
		Conn:      socket,
		plain:     plain,
		reader:    bufio.NewReaderSize(socket, readBufferBytes),
		authority: address,
		calls:     map[uint32]*exchange{},
		nextCall:  1,
		window:    window,
		send:      windowDefault,
		sendEach:  windowDefault,
	}
	made.encoder = hpack.NewEncoder(&made.encoded)
	made.decoder = hpack.NewDecoder(headerTableBytes, made.header)
	made.out = append(made.out, preface...)
	made.frame(frameSettings, 0, 0, settingSize)
	made.out = binary.BigEndian.AppendUint16(made.out, settingWindow)
	made.out = binary.BigEndian.AppendUint32(made.out, uint32(window))
	if window > windowDefault {
		made.windowUpdate(0, window-windowDefault)
	}
	return made, nil
}

// abort closes the connection as a machine that dies does.
func (c *conn) abort() {
	if socket, is := c.plain.(*net.TCPConn); is {
		_ = socket.SetLinger(0)
	}
	_ = c.plain.Close()
}

// begin opens a call with its first message and returns its number; `last`
// says that no more messages follow.
func (c *conn) begin(method string, last bool, message []byte) (uint32, error) {
	number := c.nextCall
	c.nextCall += 2
	c.calls[number] = &exchange{send: c.sendEach}
	c.encoded.Reset()
	for _, pair := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", c.authority},
		{"te", "trailers"}, {"content-type", "application/grpc"},
	} {
		if err := c.encoder.WriteField(hpack.HeaderField{Name: pair[0], Value: pair[1]}); err != nil {
			return 0, err
		}
	}
	c.frame(frameHeaders, flagEndHeaders, number, c.encoded.Len())
	c.out = append(c.out, c.encoded.Bytes()...)
	if err := c.write(number, message, last); err != nil {
		return 0, err
	}
	return number, c.flush()
}

// more sends another message of a call.
func (c *conn) more(number uint32, message []byte) error {
	if err := c.write(number, message, false); err != nil {
		return err
	}
	return c.flush()
}

// invoke makes a unary call and waits for its answer.
func (c *conn) invoke(method string, request []byte, limit time.Duration) ([]byte, error) {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return nil, err
	}
	number, err := c.begin(method, true, request)
	if err != nil {
		return nil, err
	}
	var answer []byte
	for {
		found, err := c.next()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", method, err)
		}
		switch {
		case found.call != number:
		case !found.ended:
			answer = append(answer, found.message...)
		default:
			return answer, found.failure(method)
		}
	}
}

// failure is the error of a call that has ended, nil if it ended well.
func (h happening) failure(method string) error {
	if h.status == "0" {
		return nil
	}
	return fmt.Errorf("%s: status %s: %s", method, h.status, h.text)
}

// next waits for what comes of any call.
func (c *conn) next() (happening, error) {
	for len(c.waiting) == 0 {
		if err := c.take(); err != nil {
			return happening{}, err
		}
	}
	found := c.waiting[0]
	c.waiting = append(c.waiting[:0], c.waiting[1:]...)
	return found, nil
}

// own copies the messages that wait, as more is read before they are taken.
func (c *conn) own() {
	for at := range c.waiting {
		c.waiting[at].message = bytes.Clone(c.waiting[at].message)
	}
}

func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Write(c.out)
	c.out = c.out[:0]
	return err
}

// write puts one message into DATA frames, and waits where the server's window
// is used up.
func (c *conn) write(number uint32, message []byte, last bool) error {
	c.body = append(c.body[:0], 0)
	c.body = binary.BigEndian.AppendUint32(c.body, uint32(len(message)))
	c.body = append(c.body, message...)
	for body := c.body; len(body) > 0; {
		made := c.calls[number]
		if made == nil {
			return errGone
		}
		size := min(len(body), frameDataMax, c.send, made.send)
		if size <= 0 {
			if err := c.flush(); err != nil {
				return err
			}
			c.own()
			if err := c.take(); err != nil {
				return err
			}
			continue
		}
		flags := byte(0)
		if last && size == len(body) {
			flags = flagEndStream
		}
		c.frame(frameData, flags, number, size)
		c.out = append(c.out, body[:size]...)
		c.send -= size
		made.send -= size
		body = body[size:]
	}
	return nil
}

func (c *conn) frame(kind, flags byte, number uint32, size int) {
	c.out = append(c.out, byte(size>>16), byte(size>>8), byte(size), kind, flags)
	c.out = binary.BigEndian.AppendUint32(c.out, number)
}

func (c *conn) windowUpdate(number uint32, size int) {
	c.frame(frameWindow, 0, number, 4)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(size))
}

// take reads one frame.
func (c *conn) take() error {
	head, err := c.reader.Peek(frameHead)
	if err != nil {
		return err
	}
	size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
	kind, flags := head[3], head[4]
	number := binary.BigEndian.Uint32(head[5:]) &^ (1 << 31)
	frame, err := c.reader.Peek(frameHead + size)
	if err != nil {
		return err
	}
	// What is peeked stays until the next read, and so does a message in it.
	_, _ = c.reader.Discard(frameHead + size)
	return c.took(kind, flags, number, frame[frameHead:])
}

func (c *conn) took(kind, flags byte, number uint32, body []byte) error {
	switch kind {
	case frameData:
		return c.data(number, flags, body)
	case frameHeaders, frameContinuation:
		return c.block(kind, flags, number, body)
	case frameReset:
		c.end(number, "reset", "the server reset the call")
	case frameSettings:
		return c.settings(flags, body)
	case framePing:
		if flags&flagAck == 0 {
			c.frame(framePing, flagAck, 0, len(body))
			c.out = append(c.out, body...)
			return c.flush()
		}
	case frameWindow:
		more := int(binary.BigEndian.Uint32(body))
		if number == 0 {
			c.send += more
		} else if made := c.calls[number]; made != nil {
			made.send += more
		}
	case frameGoAway:
		return errGone
	}
	return nil
}

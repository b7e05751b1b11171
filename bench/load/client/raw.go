package main

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
)

const (
	messageBytesMax = 64 << 20
	readBufferBytes = 16 << 10
	dialSeconds     = 30
)

var errUsed = errors.New("the connection is used up")

// reader takes a message; its bytes are valid during the call only.
type reader interface{ read(message []byte) error }

// discard is a reader of messages that tell nothing.
type discard struct{}

func (discard) read([]byte) error { return nil }

// rawCodec sends bytes as they are and gives received ones to a reader.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(value any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(value.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, value any) error {
	buffer := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buffer.Free()
	return value.(reader).read(buffer.ReadOnlyData())
}

// connect makes a channel that holds at most one connection in its life, and
// tells of it.
func connect(address string, connected func(net.Conn)) (*grpc.ClientConn, error) {
	used := false
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		if used {
			return nil, errUsed
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			used = true
			connected(conn)
		}
		return conn, err
	}
	return grpc.NewClient(
		"passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(dial),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(messageBytesMax), grpc.WaitForReady(true)),
		grpc.WithReadBufferSize(readBufferBytes),
		grpc.WithSharedWriteBuffer(true),
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.5, MaxDelay: time.Second},
			MinConnectTimeout: dialSeconds * time.Second,
		}),
	)
}

// connectPlain makes a channel for calls.
func connectPlain(address string) (*grpc.ClientConn, error) {
	return connect(address, func(net.Conn) {})
}

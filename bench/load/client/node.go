package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

const (
	retryLeast = 10 * time.Millisecond
	retryMost  = 100 * time.Millisecond
)

var errLost = errors.New("the server ended the stream")

// node is one client: a connection with one watch.
type node struct {
	herd   *herd
	number int
	key    string
	silent bool

	conn    atomic.Pointer[net.Conn]
	dropped atomic.Bool

	// Of the goroutine of run alone.
	have     held
	bundle   int64
	created  bool
	level    bool
	synced   bool
	streamID []byte
	nonce    []byte
	sequence int64
	fresh    bool
}

// run watches until the context ends; a watch that ends is made again.
func (n *node) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := n.watch(ctx)
		if ctx.Err() != nil || n.dropped.Swap(false) {
			continue
		}
		n.herd.failed(err)
		select {
		case <-ctx.Done():
		case <-time.After(retryLeast + rand.N(retryMost-retryLeast)):
		}
	}
}

// drop cuts the connection, without a word.
func (n *node) drop() {
	n.dropped.Store(true)
	if conn := n.conn.Load(); conn != nil {
		_ = (*conn).Close()
	}
}

func (n *node) watch(parent context.Context) error {
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	channel, err := connect(n.herd.address, func(conn net.Conn) { n.conn.Store(&conn) })
	if err != nil {
		return err
	}
	defer func() { _ = channel.Close() }()
	method, kind := n.herd.subject.watch()
	stream, err := channel.NewStream(ctx, kind, method)
	if err != nil {
		return err
	}
	n.created, n.level, n.synced, n.sequence = false, false, false, 0
	for _, request := range n.herd.subject.opening(n.number, n.key, &n.have) {
		if err := stream.SendMsg(request); err != nil {
			return ended(stream, err)
		}
	}
	if !kind.ClientStreams {
		_ = stream.CloseSend()
	}
	if check := n.herd.subject.check(n.key, &n.have); check != nil {
		if err := channel.Invoke(ctx, check.method, check.request, discard{}); err != nil {
			return err
		}
		n.level = true
	}
	reports := reporter{node: n, channel: channel}
	for {
		n.fresh = false
		if err := stream.RecvMsg(n); err != nil {
			return ended(nil, err)
		}
		if n.herd.acks != nil && n.fresh {
			if err := stream.SendMsg(n.herd.acks(n)); err != nil {
				return ended(stream, err)
			}
		}
		if n.silent && n.synced {
			<-ctx.Done()
			return nil
		}
		if n.fresh {
			n.herd.had.one(n.have.revision)
			if err := reports.send(ctx); err != nil {
				return err
			}
		}
	}
}

// read takes a message of the watch.
func (n *node) read(message []byte) error {
	var found seen
	if err := n.herd.subject.scan(message, &found); err != nil {
		return err
	}
	n.have.revision = max(n.have.revision, found.revision)
	keep(&n.have.epoch, found.epoch)
	keep(&n.have.name, found.name)
	keep(&n.have.etag, found.etag)
	keep(&n.have.content, found.content)
	keep(&n.streamID, found.streamID)
	keep(&n.nonce, found.nonce)
	if found.change {
		n.bundle, n.fresh = found.bundle, true
		n.herd.deliveries.Add(1)
	}
	n.created = n.created || found.created
	n.level = n.level || found.level
	if !n.synced && n.created && n.level {
		n.synced = true
		n.herd.synced.one(0)
	}
	return nil
}

func keep(place *[]byte, bytes []byte) {
	if bytes != nil {
		*place = append((*place)[:0], bytes...)
	}
}

func ended(stream grpc.ClientStream, err error) error {
	if errors.Is(err, io.EOF) {
		if stream != nil {
			return stream.RecvMsg(discard{})
		}
		return errLost
	}
	return err
}

// reporter sends a node's reports, on a stream or by unary calls.
type reporter struct {
	node    *node
	channel *grpc.ClientConn
	stream  grpc.ClientStream
}

func (r *reporter) send(ctx context.Context) error {
	n := r.node
	mode := n.herd.reports.Load()
	if mode == reportNone {
		return nil
	}
	n.sequence++
	request := report(n.streamID, n.nonce, &n.have, n.bundle, n.sequence)
	if mode == reportUnary {
		err := r.channel.Invoke(ctx, "/voxplane.v1.ConfigSyncService/ReportConfigStatus", request, discard{})
		if err != nil {
			return fmt.Errorf("a report: %w", err)
		}
		n.herd.reported.one(n.have.revision)
		return nil
	}
	if r.stream == nil {
		var err error
		kind := &grpc.StreamDesc{ClientStreams: true}
		r.stream, err = r.channel.NewStream(ctx, kind, "/voxplane.v1.ConfigSyncService/StreamConfigStatus")
		if err != nil {
			return err
		}
	}
	if err := r.stream.SendMsg(appendBytes(nil, 1, request)); err != nil {
		return fmt.Errorf("the stream of reports: %w", ended(r.stream, err))
	}
	return nil
}

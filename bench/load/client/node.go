package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

const (
	retryLeast       = 10 * time.Millisecond
	retryMost        = 100 * time.Millisecond
	messageHeadBytes = 1_024
)

// node is one client: a connection with one watch, and its reports.
type node struct {
	herd   *herd
	number int
	key    string
	silent bool

	conn    atomic.Pointer[conn]
	dropped atomic.Bool

	// Of the goroutine of run alone.
	have     held
	created  bool
	level    bool
	synced   bool
	streamID []byte
	nonce    []byte
	sequence int64

	watchCall  uint32
	checkCall  uint32
	reportCall uint32
	reporting  map[uint32]int64
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
		conn.abort()
	}
}

// watch holds one connection until it breaks.
func (n *node) watch(ctx context.Context) error {
	window := windowBytes
	if n.silent {
		// One change fills it, so that the server soon has to hold back.
		window = n.herd.payload + messageHeadBytes
	}
	conn, err := dial(n.herd.address, window, n.herd.secure)
	if err != nil {
		return err
	}
	n.conn.Store(conn)
	defer conn.abort()
	if ctx.Err() != nil || n.dropped.Load() {
		// It may have been aimed at the connection before this one.
		return errGone
	}
	if err := n.open(conn); err != nil {
		return err
	}
	for {
		found, err := conn.next()
		if err != nil {
			return err
		}
		if err := n.happened(conn, found); err != nil {
			return err
		}
		if n.silent && n.herd.deaf.Load() {
			n.herd.sleep(ctx)
		}
	}
}

func (n *node) open(conn *conn) error {
	n.created, n.level, n.synced, n.sequence = false, false, false, 0
	n.checkCall, n.reportCall, n.reporting = 0, 0, map[uint32]int64{}
	subject := n.herd.subject
	method, both := subject.watch()
	var err error
	if n.watchCall, err = conn.begin(method, !both, subject.opening(n)); err != nil {
		return err
	}
	if check := subject.check(n); check != nil {
		n.checkCall, err = conn.begin(check.method, true, check.request)
	} else {
		n.level = true
	}
	return err
}

// happened takes what came of one of the node's calls.
func (n *node) happened(conn *conn, found happening) error {
	revision, reported := n.reporting[found.call]
	switch {
	case found.call == n.watchCall && !found.ended:
		return n.read(conn, found.message)
	case found.call == n.checkCall && found.ended:
		n.level = true
		n.settle()
		return found.failure("the read")
	case reported && found.ended:
		delete(n.reporting, found.call)
		n.herd.reported.one(revision)
		return found.failure("a report")
	case found.ended:
		if err := found.failure("the stream"); err != nil {
			return err
		}
		return errGone
	}
	return nil
}

// read takes a message of the watch.
func (n *node) read(conn *conn, message []byte) error {
	var found seen
	if err := n.herd.subject.scan(message, &found); err != nil {
		return err
	}
	n.have.take(&found.held)
	keep(&n.streamID, found.streamID)
	keep(&n.nonce, found.nonce)
	n.created = n.created || found.created
	n.herd.saw(n.have.revision)
	n.settle()
	if !found.change {
		return nil
	}
	n.herd.deliveries.Add(1)
	if ack := n.herd.subject.ack(n); ack != nil {
		if err := conn.more(n.watchCall, ack); err != nil {
			return err
		}
	}
	if !n.silent {
		n.herd.had.one(n.have.revision)
	}
	return n.report(conn)
}

// settle tells when the node is level for the first time on its connection.
func (n *node) settle() {
	if !n.synced && n.created && n.level {
		n.synced = true
		n.herd.synced.one(0)
	}
}

// report says that the node runs what it has.
func (n *node) report(conn *conn) error {
	mode := n.herd.reports.Load()
	if mode == reportNone {
		return nil
	}
	n.sequence++
	report := n.herd.subject.report(n)
	if mode == reportUnary {
		number, err := conn.begin(report.method, true, report.request)
		n.reporting[number] = n.have.revision
		return err
	}
	message := appendBytes(nil, 1, report.request)
	if n.reportCall != 0 {
		return conn.more(n.reportCall, message)
	}
	var err error
	n.reportCall, err = conn.begin(n.herd.subject.reports(), false, message)
	if err != nil {
		return fmt.Errorf("the stream of reports: %w", err)
	}
	return nil
}

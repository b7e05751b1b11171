package main

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

const (
	reportNone = iota
	reportStream
	reportUnary
)

const failuresMost = 10

// gate opens when all have passed it.
type gate struct {
	target atomic.Int64
	left   atomic.Int64
	opened chan time.Time
}

func newGate() gate { return gate{opened: make(chan time.Time, 1)} }

// arm closes the gate until so many have come with the target or a later one.
func (g *gate) arm(count int, target int64) {
	g.target.Store(target)
	g.left.Store(int64(count))
}

func (g *gate) one(revision int64) {
	if revision >= g.target.Load() && g.left.Add(-1) == 0 {
		g.opened <- time.Now()
	}
}

// wait returns when the gate opened.
func (g *gate) wait(limit time.Duration) (time.Time, error) {
	select {
	case at := <-g.opened:
		return at, nil
	case <-time.After(limit):
		return time.Time{}, fmt.Errorf("%d clients are missing after %s", g.left.Load(), limit)
	}
}

// herd is many nodes.
type herd struct {
	cancel  context.CancelFunc
	address string
	secure  bool
	subject subject
	payload int
	nodes   []*node

	reports    atomic.Int32
	synced     gate
	had        gate
	reported   gate
	deliveries atomic.Int64
	newest     atomic.Int64

	// While deaf is set, the silent ones of the nodes do not read.
	deaf     atomic.Bool
	sleeping chan struct{}

	mutex    sync.Mutex
	failures map[string]int
	lost     int
	group    sync.WaitGroup
}

// newHerd makes nodes; the last `silent` of them can be made deaf.
func newHerd(todo plan, key func(int) string) *herd {
	made := &herd{
		cancel: func() {}, address: todo.watches, secure: todo.secure, subject: todo.subject, payload: todo.payload,
		failures: map[string]int{},
		synced:   newGate(), had: newGate(), reported: newGate(), sleeping: make(chan struct{}),
	}
	for number := range todo.streams {
		made.nodes = append(made.nodes, &node{
			herd: made, number: number, key: key(number), silent: number >= todo.streams-todo.silent,
		})
	}
	return made
}

func (h *herd) readers() int {
	count := 0
	for _, node := range h.nodes {
		if !node.silent {
			count++
		}
	}
	return count
}

// sleep returns when the silent nodes are woken.
func (h *herd) sleep(ctx context.Context) {
	h.mutex.Lock()
	sleeping := h.sleeping
	h.mutex.Unlock()
	select {
	case <-ctx.Done():
	case <-sleeping:
	}
}

// wake has the silent nodes read again.
func (h *herd) wake() {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.deaf.Store(false)
	close(h.sleeping)
	h.sleeping = make(chan struct{})
}

// start opens all watches at once; stop ends them.
func (h *herd) start() {
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	for _, node := range h.nodes {
		h.group.Go(func() { node.run(ctx) })
	}
}

func (h *herd) stop() {
	h.cancel()
	for _, node := range h.nodes {
		if conn := node.conn.Load(); conn != nil {
			conn.abort()
		}
	}
	h.group.Wait()
}

func (h *herd) failed(err error) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.lost++
	text := fmt.Sprint(err)
	if h.failures[text] > 0 || len(h.failures) < failuresMost {
		h.failures[text]++
	}
}

// failuresSoFar are the watches that ended unasked, and why.
func (h *herd) failuresSoFar() (int, map[string]int) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return h.lost, maps.Clone(h.failures)
}

// saw keeps the newest revision of any node.
func (h *herd) saw(revision int64) {
	for newest := h.newest.Load(); revision > newest; newest = h.newest.Load() {
		if h.newest.CompareAndSwap(newest, revision) {
			return
		}
	}
}

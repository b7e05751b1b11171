package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	reportNone = iota
	reportStream
	reportUnary
)

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
	address string
	subject subject
	acks    func(*node) []byte
	nodes   []*node

	reports    atomic.Int32
	synced     gate
	had        gate
	reported   gate
	deliveries atomic.Int64

	mutex    sync.Mutex
	failures map[string]int
	lost     int
	group    sync.WaitGroup
}

// newHerd makes nodes; the last `silent` of them read nothing once they are
// level.
func newHerd(address string, subject subject, count, silent int, key func(int) string) *herd {
	made := &herd{
		address: address, subject: subject, failures: map[string]int{},
		synced: newGate(), had: newGate(), reported: newGate(),
	}
	if _, is := subject.(ads); is {
		made.acks = ads{}.ack
	}
	for number := range count {
		made.nodes = append(made.nodes, &node{
			herd: made, number: number, key: key(number), silent: number >= count-silent,
		})
	}
	return made
}

// start opens all watches at once.
func (h *herd) start(ctx context.Context) {
	for _, node := range h.nodes {
		h.group.Go(func() { node.run(ctx) })
	}
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

func (h *herd) failed(err error) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.lost++
	if len(h.failures) < 10 {
		h.failures[fmt.Sprint(err)]++
	}
}

// failuresSoFar are the watches that ended unasked, and why.
func (h *herd) failuresSoFar() (int, map[string]int) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	copied := map[string]int{}
	for text, count := range h.failures {
		copied[text] = count
	}
	return h.lost, copied
}

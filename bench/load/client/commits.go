package main

import (
	"fmt"
	"sync"
	"time"
)

const warmUpShare = 5

// commitsResult is what the writers found; times in ms.
type commitsResult struct {
	PerSecond float64   `json:"per_second"`
	CallMs    []float64 `json:"call_ms"`
	CallUs    float64   `json:"call_us"`
}

// commits has writers with a connection and a key each commit as fast as they
// can.
func commits(todo plan) (*commitsResult, error) {
	writers := make([]*committer, todo.writers)
	for number := range writers {
		conn, err := dial(todo.address, windowBytes, todo.secure)
		if err != nil {
			return nil, err
		}
		defer conn.abort()
		writers[number] = &committer{
			plan: todo, conn: conn, key: fmt.Sprintf("writers/writer-%d", number),
		}
		made := todo.subject.create(writers[number].key)
		if _, err := conn.invoke(made.method, made.request, callTimeout); err != nil {
			return nil, err
		}
	}
	if _, _, err := together(writers, todo.duration/warmUpShare); err != nil {
		return nil, err
	}
	before := todo.server.cpu()
	times, took, err := together(writers, todo.duration)
	if err != nil {
		return nil, err
	}
	cpu := todo.server.cpu() - before
	count := float64(len(times))
	return &commitsResult{count / took.Seconds(), times, float64(cpu.Microseconds()) / count}, nil
}

// committer is one writer.
type committer struct {
	plan
	conn   *conn
	key    string
	change int
	times  []float64
	err    error
}

func together(writers []*committer, duration time.Duration) ([]float64, time.Duration, error) {
	var group sync.WaitGroup
	began := time.Now()
	for _, writer := range writers {
		group.Go(func() { writer.write(began.Add(duration)) })
	}
	group.Wait()
	took := time.Since(began)
	var times []float64
	for _, writer := range writers {
		if writer.err != nil {
			return nil, 0, writer.err
		}
		times = append(times, writer.times...)
	}
	return times, took, nil
}

func (c *committer) write(until time.Time) {
	c.times = nil
	for time.Now().Before(until) {
		c.change++
		made := c.subject.put(c.key, value(c.change, c.payload))
		began := time.Now()
		if _, c.err = c.conn.invoke(made.method, made.request, callTimeout); c.err != nil {
			return
		}
		c.times = append(c.times, milliseconds(time.Since(began)))
	}
}

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
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
	ctx, cancel := context.WithTimeout(context.Background(), todo.duration+roundSeconds*time.Second)
	defer cancel()
	writers := make([]*committer, todo.writers)
	for number := range writers {
		channel, err := connectPlain(todo.address)
		if err != nil {
			return nil, err
		}
		defer func() { _ = channel.Close() }()
		writers[number] = &committer{
			plan: todo, channel: channel, key: fmt.Sprintf("%s/writer-%d", fanKey, number),
		}
		made := todo.subject.create(writers[number].key)
		if err := channel.Invoke(ctx, made.method, made.request, discard{}); err != nil {
			return nil, fmt.Errorf("%s: %w", made.method, err)
		}
	}
	if _, _, err := together(ctx, writers, todo.duration/warmUpShare); err != nil {
		return nil, err
	}
	before := todo.server.cpu()
	times, took, err := together(ctx, writers, todo.duration)
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
	channel *grpc.ClientConn
	key     string
	change  int
	times   []float64
	err     error
}

func together(ctx context.Context, writers []*committer, duration time.Duration) ([]float64, time.Duration, error) {
	var group sync.WaitGroup
	began := time.Now()
	for _, writer := range writers {
		group.Go(func() { writer.write(ctx, began.Add(duration)) })
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

func (c *committer) write(ctx context.Context, until time.Time) {
	c.times = nil
	for time.Now().Before(until) {
		c.change++
		made := c.subject.put(c.key, value(c.change, c.payload))
		began := time.Now()
		if c.err = c.channel.Invoke(ctx, made.method, made.request, discard{}); c.err != nil {
			c.err = fmt.Errorf("%s: %w", made.method, c.err)
			return
		}
		c.times = append(c.times, milliseconds(time.Since(began)))
	}
}

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
)

const soakPayload = 2_000

// soakPlan is how lively a soak is.
type soakPlan struct {
	tenants    int
	commits    float64
	reconnects float64
	every      time.Duration
}

func soakFlags() *soakPlan {
	made := &soakPlan{}
	flag.IntVar(&made.tenants, "tenants", 10, "tenants of the soak")
	flag.Float64Var(&made.commits, "commits", 20, "commits a second of the soak")
	flag.Float64Var(&made.reconnects, "churn", 10, "reconnects a second of the soak")
	flag.DurationVar(&made.every, "every", 5*time.Second, "how often the soak prints")
	return made
}

// soakResult is the soak so far.
type soakResult struct {
	Seconds    float64        `json:"seconds"`
	Commits    int            `json:"commits"`
	Reconnects int            `json:"reconnects"`
	Deliveries int64          `json:"deliveries"`
	Lost       int            `json:"lost"`
	Failures   map[string]int `json:"failures"`
}

// soak commits and reconnects at fixed rates, with reports by stream, and
// prints what it did every few seconds.
func soak(todo plan, how soakPlan) (*soakResult, error) {
	writer, err := dial(todo.address, windowBytes, todo.secure)
	if err != nil {
		return nil, err
	}
	defer writer.abort()
	key := func(number int) string { return fmt.Sprintf("soak-%d/agent", number%how.tenants) }
	for number := range how.tenants {
		made := todo.subject.create(key(number))
		if _, err := writer.invoke(made.method, made.request, callTimeout); err != nil {
			return nil, err
		}
	}
	many := newHerd(todo, key)
	many.reports.Store(reportStream)
	many.synced.arm(todo.streams, 0)
	many.start()
	defer many.stop()
	if _, err := many.synced.wait(callTimeout); err != nil {
		return nil, err
	}
	result := &soakResult{}
	commit := time.NewTicker(time.Duration(float64(time.Second) / how.commits))
	churn := time.NewTicker(time.Duration(float64(time.Second) / how.reconnects))
	tell := time.NewTicker(how.every)
	began := time.Now()
	for end := time.After(todo.duration); ; {
		result.Seconds = time.Since(began).Seconds()
		result.Deliveries = many.deliveries.Load()
		result.Lost, result.Failures = many.failuresSoFar()
		select {
		case <-end:
			return result, nil
		case <-commit.C:
			made := todo.subject.put(key(result.Commits), value(result.Commits, soakPayload))
			if _, err := writer.invoke(made.method, made.request, callTimeout); err != nil {
				return nil, err
			}
			result.Commits++
		case <-churn.C:
			many.nodes[rand.IntN(len(many.nodes))].drop()
			result.Reconnects++
		case <-tell.C:
			if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
				return nil, err
			}
		}
	}
}

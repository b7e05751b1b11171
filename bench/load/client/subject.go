package main

import (
	"fmt"
	"strings"

	"google.golang.org/grpc"
)

// held is what a client has of its key.
type held struct {
	revision int64
	epoch    []byte
	name     []byte
	etag     []byte
	content  []byte
}

// seen is what a message of a watch says. Its slices are parts of the message.
type seen struct {
	held
	change   bool
	created  bool
	level    bool
	bundle   int64
	streamID []byte
	nonce    []byte
}

// call is a unary call, as bytes.
type call struct {
	method  string
	request []byte
}

// subject is a system that is measured: its messages, as bytes.
type subject interface {
	// watch is the method of a watch, its kind, and what opens one.
	watch() (string, *grpc.StreamDesc)
	opening(number int, key string, have *held) [][]byte
	// check is a call that a client makes beside its watch, to know that it is
	// level; nil if the watch tells.
	check(key string, have *held) *call
	// scan reads a message of a watch.
	scan(message []byte, found *seen) error
	// create makes a key, put changes it.
	create(key string) call
	put(key, value string) call
}

func subjectByName(name string) (subject, error) {
	switch name {
	case "voxplane":
		return voxplane{}, nil
	case "etcd":
		return etcd{}, nil
	case "ads":
		return ads{}, nil
	}
	return nil, fmt.Errorf("no subject is called %s", name)
}

// value is a text of so many bytes that differs with every change.
func value(change, bytes int) string {
	text := fmt.Sprintf("Change %d. Be kind and brief. ", change)
	return strings.Repeat(text, bytes/len(text)+1)[:bytes]
}

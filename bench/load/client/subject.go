package main

import (
	"fmt"
	"strings"
)

// held is what a client has of its key.
type held struct {
	revision int64
	epoch    []byte
	name     []byte
	etag     []byte
	content  []byte
	bundle   int64
}

// take copies what a message says.
func (h *held) take(found *held) {
	h.revision = max(h.revision, found.revision)
	h.bundle = max(h.bundle, found.bundle)
	keep(&h.epoch, found.epoch)
	keep(&h.name, found.name)
	keep(&h.etag, found.etag)
	keep(&h.content, found.content)
}

func keep(place *[]byte, bytes []byte) {
	if bytes != nil {
		*place = append((*place)[:0], bytes...)
	}
}

// seen is what a message of a watch says. `created` is set if the watch stands
// from then on, `change` if it brings a value. Its slices are parts of the
// message.
type seen struct {
	held
	change   bool
	created  bool
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
	// watch is the method of a watch, and whether the client goes on sending.
	watch() (string, bool)
	// opening is the first message of a watch.
	opening(n *node) []byte
	// check is a call that a client makes beside its watch, to know that it is
	// level; nil if the watch tells.
	check(n *node) *call
	// scan reads a message of a watch.
	scan(message []byte, found *seen) error
	// ack is what has to be sent on the watch for the next change to come; nil
	// if nothing has to.
	ack(n *node) []byte
	// report says that a node runs what it has.
	report(n *node) call
	// reports is the method of a stream of reports; empty if there is none.
	reports() string
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

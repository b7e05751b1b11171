package main

import "fmt"

// etcd is Watch and Put. A client that has a value is level when its watch
// from the next revision on is made: the answer tells the store's revision.
// One that has none reads the value too.
type etcd struct{}

func (etcd) watch() (string, bool) { return "/etcdserverpb.Watch/Watch", true }

func (etcd) opening(n *node) []byte {
	create := appendText(nil, 1, n.key)
	if n.have.revision > 0 {
		create = appendNumber(create, 3, n.have.revision+1)
	}
	return appendBytes(nil, 1, create)
}

func (etcd) check(n *node) *call {
	if n.have.revision > 0 {
		return nil
	}
	return &call{"/etcdserverpb.KV/Range", appendText(nil, 1, n.key)}
}

func (etcd) scan(message []byte, found *seen) error {
	return fields(message, func(f field) {
		switch f.number {
		case 1:
			_ = fields(f.bytes, func(f field) {
				if f.number == 3 {
					found.revision = int64(f.value)
				}
			})
		case 3:
			found.created = f.value != 0
		case 11:
			found.change = true
		}
	})
}

func (etcd) ack(*node) []byte { return nil }

// report is what a client of etcd would do: it puts a word of its own.
func (e etcd) report(n *node) call {
	return e.put(fmt.Sprintf("status/%d", n.number), fmt.Sprintf("applied %d of %s, %60s", n.have.revision, n.key, ""))
}

func (etcd) reports() string { return "" }

func (e etcd) create(key string) call { return e.put(key, "Begin.") }

func (etcd) put(key, value string) call {
	return call{"/etcdserverpb.KV/Put", appendText(appendText(nil, 1, key), 2, value)}
}

// Command client is the load of the benchmarks: many watches, a connection
// each, of one of several systems. It prints one JSON object.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"runtime/debug"
	"time"
)

// plan is what to do.
type plan struct {
	address string
	watches string
	subject subject
	server  process

	secure bool

	streams    int
	silent     int
	payload    int
	changes    int
	reconnects int
	reports    int
	writers    int
	duration   time.Duration
}

func main() {
	log.SetFlags(0)
	var todo plan
	kind := flag.String("kind", "fan", "fan, commits or soak")
	name := flag.String("subject", "voxplane", "voxplane, etcd or ads")
	flag.StringVar(&todo.address, "address", "", "host and port of the server")
	flag.StringVar(&todo.watches, "watches", "", "host and port for watches, if it is another")
	secure := flag.Bool("tls", false, "speak TLS there; the certificate is not checked")
	flag.IntVar(&todo.server.pid, "pid", 0, "process of the server")
	flag.IntVar(&todo.streams, "streams", 100, "watches")
	flag.IntVar(&todo.silent, "silent", 0, "how many of them do not read in every second block of changes")
	flag.IntVar(&todo.payload, "payload", 2_000, "bytes of a change")
	flag.IntVar(&todo.changes, "changes", 50, "changes to measure")
	flag.IntVar(&todo.reconnects, "reconnects", 0, "how often all connections are dropped at once")
	flag.IntVar(&todo.reports, "reports", 0, "changes to measure with reports")
	flag.IntVar(&todo.writers, "writers", 1, "writers, for commits")
	flag.DurationVar(&todo.duration, "duration", 3*time.Second, "how long to commit, or to soak")
	soaking := soakFlags()
	flag.Parse()

	// The load's own collections must not be taken for the server's pauses.
	debug.SetGCPercent(400)
	if todo.watches == "" {
		todo.watches = todo.address
	}
	todo.secure = *secure
	found, err := subjectByName(*name)
	if err != nil {
		log.Fatal(err)
	}
	todo.subject = found
	result, err := run(*kind, todo, soaking)
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		log.Fatal(err)
	}
}

func run(kind string, todo plan, soaking *soakPlan) (any, error) {
	switch kind {
	case "fan":
		return fan(todo)
	case "commits":
		return commits(todo)
	case "soak":
		return soak(todo, *soaking)
	}
	return nil, fmt.Errorf("no kind of load is called %s", kind)
}

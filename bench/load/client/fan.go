package main

import (
	"fmt"
	"time"
)

const (
	roundSeconds    = 60
	callTimeout     = roundSeconds * time.Second
	settle          = 1500 * time.Millisecond
	warmUpChanges   = 5
	warmUpReports   = 2
	fanTenant       = "bench"
	fanKey          = fanTenant + "/fan-out"
	convergeSeconds = 60
	silentBlocks    = 6
	warmUpSilent    = 2
)

// fanResult is what one run found; times in ms.
type fanResult struct {
	ArriveMs    float64        `json:"arrive_ms"`
	StreamKB    float64        `json:"stream_kb"`
	AckMs       []float64      `json:"ack_ms"`
	HaveMs      []float64      `json:"have_ms"`
	SilentMs    []float64      `json:"silent_ms"`
	DeliverUs   float64        `json:"deliver_us"`
	ReconnectMs []float64      `json:"reconnect_ms"`
	ReconnectUs float64        `json:"reconnect_us"`
	ByStreamMs  []float64      `json:"by_stream_ms"`
	ByStreamUs  float64        `json:"by_stream_us"`
	ByUnaryMs   []float64      `json:"by_unary_ms"`
	ByUnaryUs   float64        `json:"by_unary_us"`
	Lost        int            `json:"lost"`
	Failures    map[string]int `json:"failures"`
}

// fanRun is a herd, the one writer of its key, and what was found so far.
type fanRun struct {
	plan
	herd     *herd
	writer   *conn
	revision int64
	change   int
	acks     []float64
	result   fanResult
}

func fan(todo plan) (*fanResult, error) {
	writer, err := dial(todo.address, windowBytes, todo.secure)
	if err != nil {
		return nil, err
	}
	defer writer.abort()
	run := &fanRun{plan: todo, writer: writer}
	run.herd = newHerd(todo, func(int) string { return fanKey })
	defer run.herd.stop()
	for _, phase := range []func() error{
		run.arrive, run.deliver, run.reconnect, run.reportByStream, run.reportByUnary,
	} {
		if err := phase(); err != nil {
			_, why := run.herd.failuresSoFar()
			return nil, fmt.Errorf("%w; watches ended with %v", err, why)
		}
	}
	run.result.Lost, run.result.Failures = run.herd.failuresSoFar()
	return &run.result, nil
}

// arrive opens all watches at once.
func (r *fanRun) arrive() error {
	if err := r.invoke(r.subject.create(fanKey)); err != nil {
		return err
	}
	time.Sleep(settle)
	before := r.server.rssKB()
	r.herd.synced.arm(r.streams, 0)
	began := time.Now()
	r.herd.start()
	at, err := r.herd.synced.wait(roundSeconds * time.Second)
	if err != nil {
		return fmt.Errorf("the arrival: %w", err)
	}
	r.result.ArriveMs = milliseconds(at.Sub(began))
	time.Sleep(settle)
	r.result.StreamKB = (r.server.rssKB() - before) / float64(r.streams)
	r.revision = r.herd.newest.Load()
	return nil
}

// deliver makes the next change when all have the last.
func (r *fanRun) deliver() error {
	_, err := r.rounds(warmUpChanges, r.had)
	if err != nil {
		return fmt.Errorf("the deliveries: %w", err)
	}
	r.acks = nil
	if r.silent > 0 {
		return r.deliverAmongSilent()
	}
	before := r.server.cpu()
	r.result.HaveMs, err = r.rounds(r.changes, r.had)
	if err != nil {
		return fmt.Errorf("the deliveries: %w", err)
	}
	r.result.DeliverUs = r.each(r.server.cpu()-before, r.changes)
	r.result.AckMs = r.acks
	return nil
}

// deliverAmongSilent measures blocks of changes in turn: with all reading, and
// with some of the clients deaf. The first changes of a block fill the windows
// of the deaf, and are not counted.
func (r *fanRun) deliverAmongSilent() error {
	for block := range silentBlocks {
		deaf := block%2 == 1
		r.herd.deaf.Store(deaf)
		times, err := r.rounds(warmUpSilent+max(1, r.changes/silentBlocks), r.had)
		if err != nil {
			return fmt.Errorf("the deliveries among silent clients: %w", err)
		}
		times = times[warmUpSilent:]
		if deaf {
			r.result.SilentMs = append(r.result.SilentMs, times...)
			r.herd.wake()
		} else {
			r.result.HaveMs = append(r.result.HaveMs, times...)
		}
		time.Sleep(settle)
	}
	r.result.AckMs = r.acks
	return nil
}

// reconnect drops all connections at once.
func (r *fanRun) reconnect() error {
	cpu := time.Duration(0)
	for range r.reconnects {
		time.Sleep(settle)
		before := r.server.cpu()
		r.herd.synced.arm(r.streams, 0)
		began := time.Now()
		for _, node := range r.herd.nodes {
			node.drop()
		}
		at, err := r.herd.synced.wait(roundSeconds * time.Second)
		if err != nil {
			return fmt.Errorf("the reconnect: %w", err)
		}
		r.result.ReconnectMs = append(r.result.ReconnectMs, milliseconds(at.Sub(began)))
		cpu += r.server.cpu() - before
	}
	if r.reconnects > 0 {
		r.result.ReconnectUs = r.each(cpu, r.reconnects)
	}
	return nil
}

// reportByStream has the nodes report on a stream. The CPU is of changes that
// follow one another as soon as all have the last; the times are of changes
// that follow when the server says that all have reported.
func (r *fanRun) reportByStream() error {
	if r.reports == 0 || r.subject.reports() == "" {
		return nil
	}
	r.herd.reports.Store(reportStream)
	if _, err := r.rounds(warmUpReports, r.converged); err != nil {
		return fmt.Errorf("the reports by stream: %w", err)
	}
	before := r.server.cpu()
	if _, err := r.rounds(r.reports-1, r.had); err != nil {
		return fmt.Errorf("the reports by stream: %w", err)
	}
	if _, err := r.rounds(1, r.converged); err != nil {
		return fmt.Errorf("the reports by stream: %w", err)
	}
	r.result.ByStreamUs = r.each(r.server.cpu()-before, r.reports)
	var err error
	r.result.ByStreamMs, err = r.rounds(r.reports, r.converged)
	return err
}

// reportByUnary has the nodes report by unary calls. Where a report is a change
// of the store, revisions run ahead of what is waited for, which does no harm.
func (r *fanRun) reportByUnary() error {
	if r.reports == 0 {
		return nil
	}
	r.herd.reports.Store(reportUnary)
	if _, err := r.rounds(warmUpReports, r.answered); err != nil {
		return fmt.Errorf("the reports by unary call: %w", err)
	}
	before := r.server.cpu()
	var err error
	r.result.ByUnaryMs, err = r.rounds(r.reports, r.answered)
	r.result.ByUnaryUs = r.each(r.server.cpu()-before, r.reports)
	return err
}

// rounds makes changes, each when `all` has returned for the last, and returns
// the times from before the change until then.
func (r *fanRun) rounds(count int, all func() (time.Time, error)) ([]float64, error) {
	var times []float64
	for range count {
		r.change++
		r.revision++
		r.herd.had.arm(r.herd.readers(), r.revision)
		r.herd.reported.arm(r.herd.readers(), r.revision)
		request := r.subject.put(fanKey, value(r.change, r.payload))
		began := time.Now()
		if err := r.invoke(request); err != nil {
			return nil, err
		}
		r.acks = append(r.acks, milliseconds(time.Since(began)))
		at, err := all()
		if err != nil {
			return nil, err
		}
		times = append(times, milliseconds(at.Sub(began)))
	}
	return times, nil
}

func (r *fanRun) had() (time.Time, error) {
	return r.herd.had.wait(roundSeconds * time.Second)
}

func (r *fanRun) answered() (time.Time, error) {
	if _, err := r.had(); err != nil {
		return time.Time{}, err
	}
	return r.herd.reported.wait(roundSeconds * time.Second)
}

func (r *fanRun) converged() (time.Time, error) {
	made := converge(fanTenant, r.revision, r.streams, convergeSeconds)
	answer, err := r.writer.invoke(made.method, made.request, callTimeout)
	at := time.Now()
	if err != nil {
		return at, err
	}
	if !isConverged(answer) {
		return at, fmt.Errorf("not all run revision %d", r.revision)
	}
	_, err = r.had()
	return at, err
}

func (r *fanRun) invoke(made call) error {
	_, err := r.writer.invoke(made.method, made.request, callTimeout)
	return err
}

// each is the CPU per delivery, in µs.
func (r *fanRun) each(cpu time.Duration, changes int) float64 {
	return float64(cpu.Microseconds()) / float64(changes) / float64(r.herd.readers())
}

func milliseconds(time time.Duration) float64 { return float64(time.Microseconds()) / 1e3 }

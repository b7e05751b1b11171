package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Clock ticks of /proc are a hundredth of a second on every Linux.
const ticksPerSecond = 100

// process is the server that is measured.
type process struct{ pid int }

// cpu is the user and system time so far.
func (p process) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return 0
	}
	words := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, _ := strconv.Atoi(words[11])
	system, _ := strconv.Atoi(words[12])
	return time.Duration(user+system) * time.Second / ticksPerSecond
}

// rssKB is the resident memory in KB.
func (p process) rssKB() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.pid))
	if err != nil {
		return 0
	}
	pages, _ := strconv.Atoi(strings.Fields(string(text))[1])
	return float64(pages) * float64(os.Getpagesize()) / 1024
}

package main

import (
	"fmt"
	"strings"
)

const phaseApplied = 4

// voxplane is WatchConfig and UpdateAgentConfig, by the field numbers of the
// contract. A key is a tenant and an agent with a slash between.
type voxplane struct{}

func (voxplane) watch() (string, bool) { return "/voxplane.v1.ConfigSyncService/WatchConfig", false }

func (voxplane) opening(n *node) []byte {
	tenant, _ := split(n.key)
	have := &n.have
	request := appendText(nil, 1, tenant)
	request = appendBytes(request, 3, appendText(nil, 1, fmt.Sprintf("load-%d", n.number)))
	if have.revision > 0 {
		revision := appendBytes(appendNumber(nil, 1, have.revision), 2, have.epoch)
		request = appendBytes(request, 4, appendBytes(appendText(nil, 1, tenant), 2, revision))
		request = appendBytes(request, 5, appendBytes(appendBytes(nil, 1, have.name), 2, have.etag))
		request = appendBytes(request, 6, have.content)
	}
	return request
}

func (voxplane) check(*node) *call { return nil }

func (voxplane) ack(*node) []byte { return nil }

func (voxplane) scan(message []byte, found *seen) error {
	var transfer []byte
	err := fields(message, func(f field) {
		switch f.number {
		case 1:
			transfer = f.bytes
		case 14:
			found.streamID = f.bytes
		case 15:
			found.nonce = f.bytes
		}
	})
	if transfer == nil || err != nil {
		return err
	}
	return fields(transfer, func(f field) {
		switch f.number {
		case 2:
			_ = fields(f.bytes, func(f field) {
				switch f.number {
				case 1:
					found.revision = int64(f.value)
				case 2:
					found.epoch = f.bytes
				}
			})
		case 4:
			_ = fields(f.bytes, func(f field) {
				if f.number == 1 {
					found.content = f.bytes
				}
			})
		case 5:
			found.change = true
			scanBundle(f.bytes, found)
		case 7:
			found.created = true
		}
	})
}

func scanBundle(bundle []byte, found *seen) {
	_ = fields(bundle, func(f field) {
		switch f.number {
		case 1:
			found.name = f.bytes
		case 2:
			found.etag = f.bytes
		case 3:
			found.bundle = int64(f.value)
		}
	})
}

func (voxplane) create(key string) call {
	tenant, agent := split(key)
	request := appendText(appendText(nil, 1, tenant), 2, agent)
	config := appendBytes(nil, 3, appendText(nil, 1, "Begin."))
	config = appendBytes(config, 6, appendText(nil, 1, "offline"))
	return call{"/voxplane.v1.AgentService/CreateAgent", appendBytes(request, 3, config)}
}

func (voxplane) put(key, value string) call {
	tenant, agent := split(key)
	request := appendText(appendText(nil, 1, tenant), 2, agent)
	request = appendBytes(request, 3, appendBytes(nil, 3, appendText(nil, 1, value)))
	request = appendBytes(request, 4, appendText(nil, 1, "prompt_config.instructions"))
	return call{"/voxplane.v1.AgentService/UpdateAgentConfig", request}
}

func (voxplane) report(n *node) call {
	status := appendBytes(appendBytes(nil, 1, n.have.name), 2, n.have.etag)
	status = appendNumber(appendNumber(status, 3, n.have.bundle), 4, phaseApplied)
	request := appendBytes(appendBytes(nil, 1, n.streamID), 2, n.nonce)
	request = appendNumber(appendBytes(request, 3, status), 4, n.sequence)
	return call{"/voxplane.v1.ConfigSyncService/ReportConfigStatus", request}
}

func (voxplane) reports() string { return "/voxplane.v1.ConfigSyncService/StreamConfigStatus" }

// converge waits until the nodes run the tenant's revision, or can not.
func converge(tenant string, revision int64, nodes, seconds int) call {
	request := appendNumber(appendText(nil, 1, tenant), 2, revision)
	request = appendBytes(request, 3, appendNumber(nil, 1, int64(seconds)))
	return call{"/voxplane.v1.NodeService/WaitForConvergence", appendNumber(request, 4, int64(nodes))}
}

func split(key string) (string, string) {
	tenant, agent, _ := strings.Cut(key, "/")
	return tenant, agent
}

// isConverged reads the answer to converge.
func isConverged(answer []byte) bool {
	converged := false
	_ = fields(answer, func(f field) { converged = converged || f.number == 1 && f.value != 0 })
	return converged
}

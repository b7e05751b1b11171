package main

import (
	"strconv"

	"google.golang.org/grpc"
)

// ads is the aggregated discovery service of xDS, state of the world; its put
// is a method of the bench's own server.
type ads struct{}

func (ads) watch() (string, *grpc.StreamDesc) {
	return "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
		&grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
}

const adsType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

func (ads) opening(_ int, key string, have *held) [][]byte {
	var request []byte
	if have.revision > 0 {
		request = appendText(request, 1, strconv.FormatInt(have.revision, 10))
	}
	request = appendBytes(request, 2, appendText(nil, 1, "load"))
	request = appendText(request, 3, key)
	return [][]byte{appendText(request, 4, adsType)}
}

func (ads) check(string, *held) *call { return nil }

func (ads) scan(message []byte, found *seen) error {
	found.change, found.created, found.level = true, true, true
	return fields(message, func(f field) {
		switch f.number {
		case 1:
			found.revision, _ = strconv.ParseInt(string(f.bytes), 10, 64)
		case 5:
			found.nonce = f.bytes
		}
	})
}

// ack accepts a message.
func (ads) ack(n *node) []byte {
	request := appendText(nil, 1, strconv.FormatInt(n.have.revision, 10))
	request = appendText(request, 3, n.key)
	return appendBytes(appendText(request, 4, adsType), 5, n.nonce)
}

func (a ads) create(key string) call { return a.put(key, "Begin.") }

func (ads) put(key, value string) call {
	return call{"/bench.Ads/Put", appendText(appendText(nil, 1, key), 2, value)}
}

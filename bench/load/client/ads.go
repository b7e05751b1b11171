package main

import "strconv"

const adsType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

// ads is the aggregated discovery service of xDS, state of the world; its put
// is a method of the bench's own server.
type ads struct{}

func (ads) watch() (string, bool) {
	return "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources", true
}

// opening names no version: the server would not answer the present one, and
// the client would not know that it is level.
func (ads) opening(n *node) []byte {
	request := appendBytes(nil, 2, appendText(nil, 1, "load"))
	return appendText(appendText(request, 3, n.key), 4, adsType)
}

func (ads) check(*node) *call { return nil }

func (ads) scan(message []byte, found *seen) error {
	found.change, found.created = true, true
	return fields(message, func(f field) {
		switch f.number {
		case 1:
			found.revision, _ = strconv.ParseInt(string(f.bytes), 10, 64)
		case 5:
			found.nonce = f.bytes
		}
	})
}

func (ads) report(*node) call { panic("there is no report in ADS") }

func (ads) reports() string { return "" }

func (ads) ack(n *node) []byte {
	request := appendText(nil, 1, strconv.FormatInt(n.have.revision, 10))
	request = appendText(request, 3, n.key)
	return appendBytes(appendText(request, 4, adsType), 5, n.nonce)
}

func (a ads) create(key string) call { return a.put(key, "Begin.") }

func (ads) put(key, value string) call {
	return call{"/bench.Ads/Put", appendText(appendText(nil, 1, key), 2, value)}
}

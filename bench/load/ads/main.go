// Command ads is a least server of go-control-plane: one snapshot for all
// nodes, and a method that changes it.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"
)

const nodeID = "load"

// store keeps the snapshot.
type store struct {
	snapshots cache.SnapshotCache
	version   atomic.Int64
}

// put takes a message whose first field is a name and whose second is a value.
func (s *store) put(_ any, stream grpc.ServerStream) error {
	// The fields are not those of any message that is known here.
	var request emptypb.Empty
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	name, value := twoTexts(request.ProtoReflect().GetUnknown())
	version := fmt.Sprint(s.version.Add(1))
	snapshot, err := cache.NewSnapshot(version, map[resource.Type][]types.Resource{
		resource.ClusterType: {&cluster.Cluster{Name: name, AltStatName: value}},
	})
	if err != nil {
		return err
	}
	if err := s.snapshots.SetSnapshot(stream.Context(), nodeID, snapshot); err != nil {
		return err
	}
	return stream.SendMsg(&emptypb.Empty{})
}

func twoTexts(message []byte) (string, string) {
	var texts [2]string
	for at := range texts {
		_, _, size := protowire.ConsumeTag(message)
		text, length := protowire.ConsumeString(message[size:])
		texts[at], message = text, message[size+length:]
	}
	return texts[0], texts[1]
}

func main() {
	address := flag.String("client", "http://127.0.0.1:18000", "URL for clients")
	flag.Parse()
	listener, err := net.Listen("tcp", strings.TrimPrefix(*address, "http://"))
	if err != nil {
		log.Fatal(err)
	}
	kept := &store{snapshots: cache.NewSnapshotCache(true, cache.IDHash{}, nil)}
	serving := grpc.NewServer(grpc.UnknownServiceHandler(kept.put))
	discovery.RegisterAggregatedDiscoveryServiceServer(
		serving, server.NewServer(context.Background(), kept.snapshots, nil))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		serving.Stop()
	}()
	if err := serving.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

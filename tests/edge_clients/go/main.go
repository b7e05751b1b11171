// Command go-client plays the script of the edge's clients with grpc-go.
//
// Its arguments are the address, the contract as a FileDescriptorSet, and the
// id of its node. It needs no stubs. What it sees is printed, a line each.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

const (
	service  = "voxplane.v1.ConfigSyncService"
	reports  = 3
	deadline = 300 * time.Millisecond
)

type client struct {
	connection *grpc.ClientConn
	methods    protoreflect.MethodDescriptors
}

type message = map[string]any

func main() {
	log.SetFlags(0)
	if err := play(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		log.Fatal(err)
	}
}

func play(address, protoset, node string) error {
	made, err := connect(address, protoset)
	if err != nil {
		return err
	}
	defer func() { _ = made.connection.Close() }()
	ctx := context.Background()
	watch, err := made.watch(ctx, node)
	if err != nil {
		return err
	}
	first, err := made.next(watch)
	if err != nil {
		return err
	}
	said("watch", message{"revision": revision(first), "nonce": first["nonce"]})
	if err := made.unary(ctx, report(first["streamId"], first["nonce"], 1)); err != nil {
		return err
	}
	said("unary", nil)
	count, err := made.stream(ctx, first)
	if err != nil {
		return err
	}
	said("stream", message{"reports": count})
	said("error", failure(made.unary(ctx, report("none", "", 1))))
	said("ready", nil)
	second, err := made.next(watch)
	if err != nil {
		return err
	}
	said("change", message{"revision": revision(second)})
	return made.late(ctx, node+"-late")
}

func connect(address, protoset string) (*client, error) {
	raw, err := os.ReadFile(protoset)
	if err != nil {
		return nil, err
	}
	var set descriptorpb.FileDescriptorSet
	// What the contract's options say is of no concern here.
	if err := (proto.UnmarshalOptions{Resolver: new(protoregistry.Types)}).Unmarshal(raw, &set); err != nil {
		return nil, err
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, err
	}
	found, err := files.FindDescriptorByName(service)
	if err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	return &client{connection, found.(protoreflect.ServiceDescriptor).Methods()}, nil
}

func (c *client) method(name string) (string, protoreflect.MethodDescriptor) {
	return "/" + service + "/" + name, c.methods.ByName(protoreflect.Name(name))
}

func (c *client) watch(ctx context.Context, node string) (grpc.ClientStream, error) {
	path, method := c.method("WatchConfig")
	stream, err := c.connection.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil {
		return nil, err
	}
	request, err := made(method.Input(), message{"tenantId": "acme", "node": message{"nodeId": node}})
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(request); err != nil {
		return nil, err
	}
	return stream, stream.CloseSend()
}

// next waits for the next transfer.
func (c *client) next(stream grpc.ClientStream) (message, error) {
	_, method := c.method("WatchConfig")
	for {
		answer := dynamicpb.NewMessage(method.Output())
		if err := stream.RecvMsg(answer); err != nil {
			return nil, err
		}
		found, err := read(answer)
		if err != nil {
			return nil, err
		}
		if found["transfer"] != nil {
			return found, nil
		}
	}
}

func (c *client) unary(ctx context.Context, report message) error {
	path, method := c.method("ReportConfigStatus")
	request, err := made(method.Input(), report)
	if err != nil {
		return err
	}
	return c.connection.Invoke(ctx, path, request, dynamicpb.NewMessage(method.Output()))
}

func (c *client) stream(ctx context.Context, first message) (any, error) {
	path, method := c.method("StreamConfigStatus")
	stream, err := c.connection.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, path)
	if err != nil {
		return nil, err
	}
	for sequence := range reports {
		request, err := made(method.Input(), message{
			"report": report(first["streamId"], first["nonce"], sequence+2),
		})
		if err != nil {
			return nil, err
		}
		if err := stream.SendMsg(request); err != nil {
			return nil, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	answer := dynamicpb.NewMessage(method.Output())
	if err := stream.RecvMsg(answer); err != nil {
		return nil, err
	}
	found, err := read(answer)
	return found["reports"], err
}

// late watches until its deadline.
func (c *client) late(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	watch, err := c.watch(ctx, node)
	for err == nil {
		_, err = c.next(watch)
	}
	said("deadline", message{"code": int(status.Code(err))})
	return nil
}

func report(stream, nonce any, sequence int) message {
	return message{"streamId": stream, "nonce": nonce, "sequence": sequence}
}

func failure(err error) message {
	found := status.Convert(err)
	reason := ""
	for _, detail := range found.Details() {
		if info, is := detail.(*errdetails.ErrorInfo); is {
			reason = info.GetReason()
		}
	}
	return message{"code": int(found.Code()), "reason": reason, "ok": found.Code() == codes.OK}
}

func revision(answer message) any {
	return answer["transfer"].(message)["revision"].(message)["number"]
}

func made(kind protoreflect.MessageDescriptor, fields message) (proto.Message, error) {
	raw, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	request := dynamicpb.NewMessage(kind)
	return request, protojson.Unmarshal(raw, request)
}

func read(answer proto.Message) (message, error) {
	raw, err := protojson.Marshal(answer)
	if err != nil {
		return nil, err
	}
	found := message{}
	return found, json.Unmarshal(raw, &found)
}

func said(step string, more message) {
	line := message{"step": step}
	for key, value := range more {
		line[key] = value
	}
	raw, _ := json.Marshal(line)
	fmt.Println(string(raw))
}

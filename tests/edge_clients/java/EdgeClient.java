import com.google.protobuf.DescriptorProtos.FileDescriptorProto;
import com.google.protobuf.DescriptorProtos.FileDescriptorSet;
import com.google.protobuf.Descriptors.Descriptor;
import com.google.protobuf.Descriptors.FieldDescriptor;
import com.google.protobuf.Descriptors.FileDescriptor;
import com.google.protobuf.Descriptors.ServiceDescriptor;
import com.google.protobuf.DynamicMessage;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.ProtoUtils;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/**
 * Plays the script of the edge's clients with grpc-java. Its arguments are the address, the contract
 * as a FileDescriptorSet, and the id of its node. What it sees is printed, a line each.
 */
public final class EdgeClient {
  private static final String FILE = "voxplane/v1/config_sync_service.proto";
  private static final String SERVICE = "voxplane.v1.ConfigSyncService";
  private static final int REPORTS = 3;
  private static final long DEADLINE_MS = 300;

  private final ManagedChannel channel;
  private final ServiceDescriptor service;

  private EdgeClient(ManagedChannel channel, FileDescriptor file) {
    this.channel = channel;
    this.service = file.findServiceByName("ConfigSyncService");
  }

  public static void main(String[] arguments) throws Exception {
    FileDescriptorSet set = FileDescriptorSet.parseFrom(Files.readAllBytes(Path.of(arguments[1])));
    Map<String, FileDescriptorProto> protos = new HashMap<>();
    set.getFileList().forEach(proto -> protos.put(proto.getName(), proto));
    FileDescriptor file = build(FILE, protos, new HashMap<>());
    ManagedChannel channel = NettyChannelBuilder.forTarget(arguments[0]).usePlaintext().build();
    new EdgeClient(channel, file).play(arguments[2]);
    channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
  }

  private static FileDescriptor build(
      String name, Map<String, FileDescriptorProto> protos, Map<String, FileDescriptor> built)
      throws Exception {
    if (!built.containsKey(name)) {
      FileDescriptorProto proto = protos.get(name);
      FileDescriptor[] needs = new FileDescriptor[proto.getDependencyCount()];
      for (int at = 0; at < needs.length; at++) {
        needs[at] = build(proto.getDependency(at), protos, built);
      }
      built.put(name, FileDescriptor.buildFrom(proto, needs));
    }
    return built.get(name);
  }

  private void play(String node) throws Exception {
    Iterator<Message> watch = watch(node, CallOptions.DEFAULT);
    Message first = next(watch);
    said("watch", "\"revision\":" + revision(first) + ",\"nonce\":\"" + field(first, "nonce") + "\"");
    unary(report(field(first, "stream_id"), field(first, "nonce"), 1));
    said("unary", "");
    said("stream", "\"reports\":" + stream(first));
    try {
      unary(report("none", "", 1));
    } catch (StatusRuntimeException error) {
      String reason = "";
      for (com.google.protobuf.Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
        reason = detail.is(ErrorInfo.class) ? detail.unpack(ErrorInfo.class).getReason() : reason;
      }
      int code = error.getStatus().getCode().value();
      said("error", "\"code\":" + code + ",\"reason\":\"" + reason + "\"");
    }
    said("ready", "");
    said("change", "\"revision\":" + revision(next(watch)));
    try {
      CallOptions late = CallOptions.DEFAULT.withDeadlineAfter(DEADLINE_MS, TimeUnit.MILLISECONDS);
      watch(node + "-late", late).forEachRemaining(message -> {});
    } catch (StatusRuntimeException error) {
      said("deadline", "\"code\":" + error.getStatus().getCode().value());
    }
  }

  private Iterator<Message> watch(String node, CallOptions options) {
    Descriptor kind = service.findMethodByName("WatchConfig").getInputType();
    FieldDescriptor who = kind.findFieldByName("node");
    Message info = set(DynamicMessage.newBuilder(who.getMessageType()), "node_id", node).build();
    Message request =
        set(DynamicMessage.newBuilder(kind), "tenant_id", "acme").setField(who, info).build();
    return ClientCalls.blockingServerStreamingCall(
        channel, method("WatchConfig", MethodType.SERVER_STREAMING), options, request);
  }

  private static Message next(Iterator<Message> watch) {
    Message found = watch.next();
    while (!found.hasField(found.getDescriptorForType().findFieldByName("transfer"))) {
      found = watch.next();
    }
    return found;
  }

  private void unary(Message report) {
    ClientCalls.blockingUnaryCall(
        channel, method("ReportConfigStatus", MethodType.UNARY), CallOptions.DEFAULT, report);
  }

  private Object stream(Message first) throws Exception {
    CompletableFuture<Message> answer = new CompletableFuture<>();
    MethodDescriptor<Message, Message> method =
        method("StreamConfigStatus", MethodType.CLIENT_STREAMING);
    StreamObserver<Message> requests =
        ClientCalls.asyncClientStreamingCall(
            channel.newCall(method, CallOptions.DEFAULT),
            new StreamObserver<>() {
              @Override
              public void onNext(Message message) {
                answer.complete(message);
              }

              @Override
              public void onError(Throwable error) {
                answer.completeExceptionally(error);
              }

              @Override
              public void onCompleted() {}
            });
    Descriptor kind = service.findMethodByName("StreamConfigStatus").getInputType();
    for (long sequence = 2; sequence < REPORTS + 2; sequence++) {
      Message report = report(field(first, "stream_id"), field(first, "nonce"), sequence);
      requests.onNext(
          DynamicMessage.newBuilder(kind).setField(kind.findFieldByName("report"), report).build());
    }
    requests.onCompleted();
    return field(answer.get(10, TimeUnit.SECONDS), "reports");
  }

  private Message report(Object stream, Object nonce, long sequence) {
    Descriptor kind = service.findMethodByName("ReportConfigStatus").getInputType();
    DynamicMessage.Builder made = set(DynamicMessage.newBuilder(kind), "stream_id", stream);
    return set(set(made, "nonce", nonce), "sequence", sequence).build();
  }

  private static DynamicMessage.Builder set(DynamicMessage.Builder made, String name, Object value) {
    return made.setField(made.getDescriptorForType().findFieldByName(name), value);
  }

  private static Object field(Message message, String name) {
    return message.getField(message.getDescriptorForType().findFieldByName(name));
  }

  private static Object revision(Message message) {
    return field((Message) field((Message) field(message, "transfer"), "revision"), "number");
  }

  private MethodDescriptor<Message, Message> method(String name, MethodType type) {
    var described = service.findMethodByName(name);
    Message input = DynamicMessage.getDefaultInstance(described.getInputType());
    Message output = DynamicMessage.getDefaultInstance(described.getOutputType());
    return MethodDescriptor.<Message, Message>newBuilder()
        .setType(type)
        .setFullMethodName(MethodDescriptor.generateFullMethodName(SERVICE, name))
        .setRequestMarshaller(ProtoUtils.marshaller(input))
        .setResponseMarshaller(ProtoUtils.marshaller(output))
        .build();
  }

  private static void said(String step, String more) {
    System.out.println("{\"step\":\"" + step + "\"" + (more.isEmpty() ? "" : "," + more) + "}");
    System.out.flush();
  }
}

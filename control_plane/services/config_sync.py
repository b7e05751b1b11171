"""ConfigSyncService: hands requests and bytes to the hub and back, on any
transport."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import grpc

from control_plane.services.call import principal
from control_plane.services.incoming import take_at_once
from control_plane.watch import Hub
from control_plane.watch.serving import Pieces
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

SERVICE = sync_pb2.DESCRIPTOR.services_by_name["ConfigSyncService"].full_name


class Context(Protocol):
    """The transport's end of a call, as far as it is needed here."""

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Let headers go out."""
        ...

    async def write(self, message: Pieces) -> None:
        """Send a message; returns when the next can be taken. A transport may
        have `pusher` besides, which returns a control_plane.watch.serving.Push."""
        ...


class ConfigSyncService:
    """Requests are messages and valid; answers of WatchConfig and FetchConfig
    are bytes. Serve what `methods` returns. `greeting` gives what the first
    message for a node ends with."""

    def __init__(self, hub: Hub, greeting: Callable[[], bytes] = bytes) -> None:
        self._hub = hub
        self._greeting = greeting

    async def watch_config(self, request: sync_pb2.WatchConfigRequest, context: Context) -> None:
        """WatchConfig of the contract."""
        stream = await self._hub.open(request, principal(), self._greeting())
        del request
        try:
            # Alone: gRPC cannot end a call with a status when its headers went
            # with a first message that nobody took.
            await context.send_initial_metadata(())
            pusher = getattr(context, "pusher", None)
            await stream.serve(context.write, pusher() if pusher is not None else None)
        finally:
            self._hub.close_stream(stream)

    async def fetch_config(self, request: sync_pb2.FetchConfigRequest, context: Context) -> bytes:
        """FetchConfig of the contract."""
        return await self._hub.fetch(request, principal())

    async def report_config_status(
        self, request: sync_pb2.ReportConfigStatusRequest, context: Context
    ) -> sync_pb2.ReportConfigStatusResponse:
        """ReportConfigStatus of the contract."""
        self._hub.report(request)
        return sync_pb2.ReportConfigStatusResponse()

    async def stream_config_status(
        self, requests: AsyncIterator[sync_pb2.StreamConfigStatusRequest], context: Context
    ) -> sync_pb2.StreamConfigStatusResponse:
        """StreamConfigStatus of the contract."""
        answer = sync_pb2.StreamConfigStatusResponse()

        def take(request: sync_pb2.StreamConfigStatusRequest) -> bool:
            try:
                self._hub.report(request.report)
            except Exception:
                return False  # and is taken again, where an error ends the call
            answer.reports += 1
            return True

        take_at_once(requests, take)
        async for request in requests:
            self._hub.report(request.report)
            answer.reports += 1
        return answer


@dataclass(frozen=True, slots=True)
class Method:
    """A call as a transport serves it: `handler` takes a message, or an
    iterator of them if `streams_in`, and the call's context; it returns the
    response, which `write_out` makes bytes of, or writes messages of Pieces to
    the context if `streams_out`."""

    handler: Callable[[Any, Any], Any]
    read_in: Callable[[bytes], Any]
    write_out: Callable[[Any], bytes]
    streams_in: bool = False
    streams_out: bool = False


def methods(service: ConfigSyncService) -> Mapping[str, Method]:
    """All calls, by name."""
    return {
        "WatchConfig": Method(
            service.watch_config, sync_pb2.WatchConfigRequest.FromString, b"".join, streams_out=True
        ),
        "FetchConfig": Method(service.fetch_config, sync_pb2.FetchConfigRequest.FromString, bytes),
        "ReportConfigStatus": Method(
            service.report_config_status,
            sync_pb2.ReportConfigStatusRequest.FromString,
            sync_pb2.ReportConfigStatusResponse.SerializeToString,
        ),
        "StreamConfigStatus": Method(
            service.stream_config_status,
            sync_pb2.StreamConfigStatusRequest.FromString,
            sync_pb2.StreamConfigStatusResponse.SerializeToString,
            streams_in=True,
        ),
    }


def add_to_server(service: ConfigSyncService, server: grpc.aio.Server) -> None:
    """Register the service. What the generated code would do, but for the
    serialisers: the bytes of watched and fetched configs are ready-made."""
    handlers = {name: _handler(method) for name, method in methods(service).items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)


def _handler(method: Method) -> grpc.RpcMethodHandler[Any, Any]:
    make: Any = grpc.unary_unary_rpc_method_handler
    if method.streams_in:
        make = grpc.stream_unary_rpc_method_handler
    elif method.streams_out:
        make = grpc.unary_stream_rpc_method_handler
    made = make(method.handler, request_deserializer=method.read_in, response_serializer=method.write_out)
    return cast("grpc.RpcMethodHandler[Any, Any]", made)

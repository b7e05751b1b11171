"""ConfigSyncService: hands requests and bytes to the hub and back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc

from control_plane.services.call import principal
from control_plane.watch import Hub
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

SERVICE = sync_pb2.DESCRIPTOR.services_by_name["ConfigSyncService"].full_name

_Context = grpc.aio.ServicerContext[Any, Any]


class ConfigSyncService:
    """Requests are messages and valid; answers of WatchConfig and FetchConfig
    are bytes. Register it with `add_to_server`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def watch_config(self, request: sync_pb2.WatchConfigRequest, context: _Context) -> None:
        """WatchConfig of the contract."""
        stream = await self._hub.open(request, principal())
        try:
            # Alone: gRPC cannot end a call with a status when its headers went
            # with a first message that nobody took.
            await context.send_initial_metadata(())
            await stream.serve(context.write)
        finally:
            self._hub.close_stream(stream)

    async def fetch_config(self, request: sync_pb2.FetchConfigRequest, context: _Context) -> bytes:
        """FetchConfig of the contract."""
        return await self._hub.fetch(request, principal())

    async def report_config_status(
        self, request: sync_pb2.ReportConfigStatusRequest, context: _Context
    ) -> sync_pb2.ReportConfigStatusResponse:
        """ReportConfigStatus of the contract."""
        self._hub.report(request)
        return sync_pb2.ReportConfigStatusResponse()

    async def stream_config_status(
        self, requests: AsyncIterator[sync_pb2.StreamConfigStatusRequest], context: _Context
    ) -> sync_pb2.StreamConfigStatusResponse:
        """StreamConfigStatus of the contract."""
        reports = 0
        async for request in requests:
            self._hub.report(request.report)
            reports += 1
        return sync_pb2.StreamConfigStatusResponse(reports=reports)


def add_to_server(service: ConfigSyncService, server: grpc.aio.Server) -> None:
    """Register the service. What the generated code would do, but for the
    serialisers: the bytes of watched and fetched configs are ready-made."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "WatchConfig": grpc.unary_stream_rpc_method_handler(
            service.watch_config,  # pyright: ignore[reportArgumentType]
            request_deserializer=sync_pb2.WatchConfigRequest.FromString,
        ),
        "FetchConfig": grpc.unary_unary_rpc_method_handler(
            service.fetch_config,  # pyright: ignore[reportArgumentType]
            request_deserializer=sync_pb2.FetchConfigRequest.FromString,
        ),
        "ReportConfigStatus": grpc.unary_unary_rpc_method_handler(
            service.report_config_status,  # pyright: ignore[reportArgumentType]
            request_deserializer=sync_pb2.ReportConfigStatusRequest.FromString,
            response_serializer=sync_pb2.ReportConfigStatusResponse.SerializeToString,
        ),
        "StreamConfigStatus": grpc.stream_unary_rpc_method_handler(
            service.stream_config_status,  # pyright: ignore[reportArgumentType]
            request_deserializer=sync_pb2.StreamConfigStatusRequest.FromString,
            response_serializer=sync_pb2.StreamConfigStatusResponse.SerializeToString,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)

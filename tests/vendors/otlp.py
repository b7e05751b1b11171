"""A receiver of OpenTelemetry traces, as Langfuse is one."""

from __future__ import annotations

import asyncio
import base64
import gzip
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2

PATH = "/api/public/otel/v1/traces"
SHUTDOWN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class ReceivedSpan:
    """One span. `keys` is who sent it, as "public:secret"."""

    name: str
    trace_id: str
    keys: str
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


class TraceReceiver:
    """Traces at `url`; `async with TraceReceiver() as receiver`."""

    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.requests = 0
        self._arrived = asyncio.Condition()
        app = web.Application()
        app.add_routes([web.post(PATH, self._take)])
        self._runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_SECONDS)

    @property
    def url(self) -> str:
        """Langfuse's base_url."""
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def until(self, count: int) -> list[ReceivedSpan]:
        """The spans, once there are so many."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.spans) >= count)
        return self.spans

    def of(self, keys: str = "", holding: str = "") -> list[ReceivedSpan]:
        """The spans that came with these keys and hold this text in an attribute;
        all of them if both are empty."""
        return [
            span
            for span in self.spans
            if keys in ("", span.keys) and any(holding in str(value) for value in span.attributes.values())
        ]

    async def wait(self, keys: str, holding: str) -> None:
        """Wait until there is such a span."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self.of(keys, holding))

    async def __aenter__(self) -> TraceReceiver:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and body.startswith(b"\x1f\x8b"):
            body = gzip.decompress(body)
        keys = base64.b64decode(request.headers["Authorization"].removeprefix("Basic ")).decode()
        exported = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        async with self._arrived:
            self.requests += 1
            for resource in exported.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        attributes = {pair.key: _value(pair.value) for pair in span.attributes}
                        self.spans.append(ReceivedSpan(span.name, span.trace_id.hex(), keys, attributes))
            self._arrived.notify_all()
        return web.Response(body=trace_service_pb2.ExportTraceServiceResponse().SerializeToString())


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None

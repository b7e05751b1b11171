"""Traces of a session, to Langfuse by OpenTelemetry.

- Off is the default, and then there is no exporter, no thread and no network.
- A session is traced if its agent says so and the share of sampled sessions has
  it, which is decided once, by the session's id and the rate when it is first
  asked for; or if SetSessionTracing says so, which wins until the end of the
  session.
- What is switched takes effect with the next span that begins: `follow` and
  `override` are called between turns.
- Every span says whose it is, and by which version it was made.
- LiveKit's tracer is the process' own; a job has one session, so it is the
  session's.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from livekit.agents import telemetry
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NoOpTracerProvider

from agent_node.job.targets import Target
from agent_node.providers.secrets import SecretResolver
from voxplane.names import split_agent_name
from voxplane.node.v1.relay_service_pb2 import CallerContext
from voxplane.v1.agent_config_pb2 import TracingConfig

LANGFUSE_URL = "https://cloud.langfuse.com"
LANGFUSE_PATH = "/api/public/otel/v1/traces"
PUBLIC_KEY = "env:LANGFUSE_PUBLIC_KEY"
SECRET_KEY = "env:LANGFUSE_SECRET_KEY"
SERVICE = "voxplane"

EXPORT_SECONDS_MAX = 5.0
EXPORT_EVERY_SECONDS = 1.0
SPANS_WAITING_MAX = 2_048
CLOSE_SECONDS_MAX = 5.0

Attributes = Mapping[str, str | tuple[str, ...]]

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Destination:
    """Where traces go, and what is in them. The keys are secrets."""

    url: str
    public_key: str
    secret_key: str
    include_content: bool

    def __repr__(self) -> str:
        return f"Destination(url={self.url!r})"


def destination_of(config: TracingConfig, secrets: SecretResolver) -> Destination:
    """Where the config's traces go. Raises VoxplaneError(SECRET_UNAVAILABLE)."""
    return Destination(
        (config.base_url or LANGFUSE_URL).rstrip("/") + LANGFUSE_PATH,
        secrets.resolve(config.public_key or PUBLIC_KEY, "tracing_config.public_key"),
        secrets.resolve(config.secret_key or SECRET_KEY, "tracing_config.secret_key"),
        config.include_content if config.HasField("include_content") else True,
    )


def is_sampled(session_id: str, rate: float) -> bool:
    """Whether a session is among the share that is traced."""
    first = int.from_bytes(hashlib.sha256(f"tracing:{session_id}".encode()).digest()[:8])
    return first < rate * 2**64


class Tracing:
    """Traces one session; `aclose` it in the end."""

    def __init__(self, caller: CallerContext, secrets: SecretResolver) -> None:
        self._caller = caller
        self._secrets = secrets
        self._override: bool | None = None
        self._sampled: bool | None = None
        self._target: Target | None = None
        self._destination: Destination | None = None
        self._provider: TracerProvider | None = None
        self._labels = _Labels({})
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def on(self) -> bool:
        """Whether the session is traced now."""
        return self._provider is not None

    def follow(self, target: Target) -> None:
        """The target makes the next turn. Raises VoxplaneError if it is to be
        traced and its keys are not there; the session is then not traced."""
        self._target = target
        self._labels.attributes = attributes_of(self._caller, target)
        self._settle()

    def check(self, traced: bool) -> None:
        """Raises as `override` would, and changes nothing."""
        if traced and self._target is not None:
            destination_of(self._target.config.tracing_config, self._secrets)

    def override(self, traced: bool) -> None:
        """Trace the session from now on, or do not, whatever its agent says.
        Raises as `follow` does."""
        self._override = traced
        self._settle()

    async def aclose(self) -> None:
        """Stop, and send what is left, for a few seconds at most."""
        self._stop()
        if self._closing:
            await asyncio.wait(self._closing, timeout=CLOSE_SECONDS_MAX)

    def _settle(self) -> None:
        destination = None
        try:
            destination = self._wanted()
        finally:
            if destination != self._destination:
                self._stop()
                if destination is not None:
                    self._start(destination)

    def _wanted(self) -> Destination | None:
        if self._target is None or self._override is False:
            return None
        config = self._target.config.tracing_config
        if self._override is None:
            if not config.enabled:
                return None
            if self._sampled is None:
                rate = config.sample_rate if config.HasField("sample_rate") else 1.0
                self._sampled = is_sampled(self._caller.session_id, rate)
            if not self._sampled:
                return None
        return destination_of(config, self._secrets)

    def _start(self, destination: Destination) -> None:
        keys = f"{destination.public_key}:{destination.secret_key}".encode()
        exporter = OTLPSpanExporter(
            destination.url,
            headers={"Authorization": f"Basic {base64.b64encode(keys).decode()}"},
            timeout=EXPORT_SECONDS_MAX,
        )
        provider = TracerProvider(resource=Resource({SERVICE_NAME: SERVICE}), shutdown_on_exit=False)
        provider.add_span_processor(self._labels)
        provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=SPANS_WAITING_MAX,
                schedule_delay_millis=EXPORT_EVERY_SECONDS * 1_000,
                export_timeout_millis=EXPORT_SECONDS_MAX * 1_000,
            )
        )
        telemetry.set_tracer_provider(provider, allow_pii=destination.include_content)
        self._provider, self._destination = provider, destination
        _log.info("tracing is on", url=destination.url)

    def _stop(self) -> None:
        provider, self._provider, self._destination = self._provider, None, None
        if provider is None:
            return
        telemetry.set_tracer_provider(NoOpTracerProvider())
        task = asyncio.create_task(asyncio.to_thread(provider.shutdown))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        _log.info("tracing is off")


def attributes_of(caller: CallerContext, target: Target) -> Attributes:
    """What is on every span, by Langfuse's names."""
    tenant_id, agent_id = split_agent_name(target.bundle.name)
    version = str(target.version)
    return {
        "session.id": caller.session_id,
        "user.id": caller.user_id,
        "langfuse.session.id": caller.session_id,
        "langfuse.user.id": caller.user_id,
        "langfuse.trace.name": agent_id,
        "langfuse.version": target.config.version or version,
        "langfuse.trace.tags": (f"tenant:{tenant_id}", f"agent:{agent_id}", f"version:{version}"),
        "langfuse.trace.metadata.tenant_id": tenant_id,
        "langfuse.trace.metadata.agent": agent_id,
        "langfuse.trace.metadata.version": version,
        "langfuse.trace.metadata.revision": str(target.bundle.revision),
    }


class _Labels(SpanProcessor):
    """Puts what all spans have in common on each as it begins."""

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """See SpanProcessor."""
        span.set_attributes({key: value for key, value in self.attributes.items() if value})

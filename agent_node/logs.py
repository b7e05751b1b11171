"""Logs of the node and of its jobs: to standard error, one line an event."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

LIBRARY_FIELDS = (
    "connection_error",
    "dispatch_id",
    "elapsed_time",
    "job_id",
    "load",
    "memory_limit_mb",
    "memory_usage_mb",
    "pid",
    "retry_count",
    "room",
    "room_id",
    "threshold",
    "timeout",
)
"""What is shown of the fields that libraries give to their lines. Others may
hold what was said, or keys."""


class _Session:
    """What each line of a process that has one session says of it. It is
    replaced whole, so that any thread may read it."""

    fields: Mapping[str, object] = MappingProxyType({})


def bind_session(**fields: object) -> None:
    """From now on say this on every log line of the process, also those of
    libraries and of other threads: a job has one session. None takes a field
    away; what a line says itself wins."""
    merged = {**_Session.fields, **fields}
    _Session.fields = MappingProxyType({name: value for name, value in merged.items() if value is not None})


def _add_session(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in _Session.fields.items():
        event.setdefault(name, value)
    return event


def configure_logs(log_format: LogFormat, node_id: str, level: LogLevel = "info") -> None:
    """Send our own logs and those of libraries to standard error."""

    def add_node(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.setdefault("node_id", node_id)
        return event

    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_session,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_node,
    ]
    last: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *common,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*common, structlog.stdlib.ExtraAdder(LIBRARY_FIELDS)],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())

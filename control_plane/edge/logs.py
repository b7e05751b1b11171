"""Logs on stderr, by structlog, one line an event."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, Processor

from control_plane.edge.log_lines import LogLines
from control_plane.services.call import CALL

_ENCODER = json.JSONEncoder(default=repr)


def configure(log_format: Literal["json", "console"], level: str) -> None:
    """Set up structlog, and send what libraries log the same way."""
    shared: list[Processor] = [
        _add_call,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Locals of a traceback may hold what must not be logged.
    rendering: list[Processor] = (
        [
            structlog.processors.ExceptionRenderer(
                structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
            ),
            structlog.processors.JSONRenderer(serializer=_encode),
        ]
        if log_format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    lines = cast("TextIO", LogLines(sys.stderr))
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(lines),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)


def _add_call(_logger: object, _method: str, event: EventDict) -> EventDict:
    """The id of the call that is being served."""
    call = CALL.get()
    if call is not None:
        event.setdefault("request_id", call.request_id)
    return event


def _encode(event: Any, **_: object) -> str:
    # json.dumps makes an encoder for each line.
    return _ENCODER.encode(event)

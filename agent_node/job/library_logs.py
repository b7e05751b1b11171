"""What libraries may log in a job.

They put into their lines what went wrong in the words of others: a vendor's
error quotes the prompt, an exception what was said. So of a library's line only
the beginning is shown, up to where such words may begin, and of an exception
its type, in our own lines with the places where it went through.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from typing import cast

MESSAGE_CHARS_MAX = 200

_OURS = frozenset({"agent_node", "voxplane", "__main__"})
_LOUD = ("livekit", "livekit.agents", "livekit.plugins", "openai", "httpx", "httpx2", "asyncio", "grpc")
_QUOTES = re.compile(r"[:=\n\"'`{\[<]")


def quieten_libraries() -> None:
    """Only warnings of libraries, and nothing that they quote. Call it after
    configure_logs."""
    for name in _LOUD:  # what they would not show they need not make
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_quotes)


def _without_quotes(record: logging.LogRecord) -> bool:
    if record.name.partition(".")[0] in _OURS:
        event = cast("object", record.msg)
        if isinstance(event, dict):
            _hide_message(cast("dict[str, object]", event))
        return True
    if record.levelno < logging.WARNING:
        return False
    said = _QUOTES.split(record.getMessage(), maxsplit=1)[0].strip()[:MESSAGE_CHARS_MAX]
    kind = record.exc_info[0] if record.exc_info else None
    record.msg = f"{said} ({kind.__name__})" if kind else said
    record.args, record.exc_info, record.exc_text, record.stack_info = (), None, None, None
    return True


def _hide_message(event: dict[str, object]) -> None:
    """Of the exception in an event of structlog."""
    raised = event.pop("exc_info", None)
    if raised is True:
        raised = sys.exc_info()[1]
    elif isinstance(raised, tuple):
        raised = cast("tuple[object, ...]", raised)[1]
    if isinstance(raised, BaseException):
        places = "".join(traceback.format_tb(raised.__traceback__))
        event["exception"] = f"{places}{type(raised).__name__}"

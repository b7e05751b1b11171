"""What libraries may log in a job."""

from __future__ import annotations

import logging

_LOUD = ("livekit", "livekit.agents", "livekit.plugins", "openai", "httpx", "httpx2", "asyncio", "grpc")


def quieten_libraries() -> None:
    """Only warnings of libraries, and of their exceptions the type alone: a
    message may quote a transcript, a prompt or a key. Call it after
    configure_logs."""
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_quotes)


def _without_quotes(record: logging.LogRecord) -> bool:
    if record.exc_info and record.name.startswith(_LOUD):
        kind = record.exc_info[0]
        record.msg = f"{record.getMessage()} ({kind.__name__ if kind else 'unknown'})"
        record.args, record.exc_info, record.exc_text = (), None, None
    return True

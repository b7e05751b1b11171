"""A caller's frontend: it puts together what it is told of replies."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.livekit.calls import Event


@dataclass(slots=True)
class Shown:
    """One reply as it is shown. `done_at` is when it was complete; `versions`,
    `revisions` and `sessions` hold all that its payloads named."""

    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    complete: set[str] = field(default_factory=set[str])
    done_at: float | None = None
    interrupted: bool = False
    payloads: int = 0
    versions: set[int] = field(default_factory=set[int])
    revisions: set[int] = field(default_factory=set[int])
    sessions: set[str] = field(default_factory=set[str])
    errors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def shown(events: Iterable[Event]) -> dict[int, Shown]:
    """What the payloads of RPCs and text streams come to, by turn; checks that
    their numbers rise, and that one RPC was on its way at a time."""
    turns: dict[int, Shown] = {}
    seq = 0
    for event in events:
        payload = json.loads(event["payload"] if event.kind == "rpc" else event["text"])
        assert event.kind != "rpc" or event["at_once"] == 1, "two RPCs were on their way at a time"
        assert payload["seq"] > seq, f"seq {payload['seq']} came after {seq}"
        seq = payload["seq"]
        if payload["whole"]:
            turns[payload["turn"]] = Shown()
        _show(turns[payload["turn"]], payload, event.at)
    return turns


def _show(reply: Shown, payload: dict[str, Any], at: float) -> None:
    reply.payloads += 1
    reply.versions.add(payload["version"])
    reply.revisions.add(payload["revision"])
    reply.sessions.add(payload["session_id"])
    for name, text in payload["deltas"].items():
        reply.fields[name] = reply.fields.get(name, "") + text
    reply.fields |= payload["fields"]
    reply.complete.update(payload["fields"], payload["complete"])
    reply.interrupted = reply.interrupted or payload["interrupted"]
    if payload["error"]:
        reply.errors.append(payload["error"])
    if payload["done"]:
        reply.done_at = at

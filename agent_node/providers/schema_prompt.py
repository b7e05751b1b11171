"""The schema of a reply, for a model that has no means of its own for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from livekit.agents.llm import ChatContext, ChatMessage

_PROMPT = (
    "Answer with one JSON object and nothing else, without a code fence. "
    "It must obey this JSON Schema, with its properties in this order:\n"
)


def schema_instructions(json_schema: Mapping[str, Any]) -> str:
    """What a prompt says of the schema."""
    return f"{_PROMPT}{json.dumps(json_schema, ensure_ascii=False)}"


def schema_in_prompt(request: Mapping[str, Any]) -> dict[str, Any]:
    """An LLM's request whose response format has become part of its prompt."""
    extra: dict[str, Any] = dict(request.get("extra_kwargs") or {})
    wanted: Mapping[str, Any] | None = extra.pop("response_format", None)
    if wanted is None:
        return dict(request)
    told = schema_instructions(wanted["json_schema"]["schema"])
    return {**request, "extra_kwargs": extra, "chat_ctx": _with(request["chat_ctx"], told)}


def _with(chat_ctx: ChatContext, told: str) -> ChatContext:
    """A copy with one more instruction, behind those that it begins with."""
    items = list(chat_ctx.items)
    first = next(
        (i for i, item in enumerate(items) if not (isinstance(item, ChatMessage) and item.role == "system")),
        len(items),
    )
    items.insert(first, ChatMessage(role="system", content=[told]))
    return ChatContext(items)

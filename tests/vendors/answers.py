"""What a language model answers: by the test's plan, else by the request itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent_node.providers.offline.reply import Situation, plain_reply, structured_reply
from tests.vendors.script import Fields, Reply, Text, ToolCall

LABEL = "openai stub"


def answer_to(request: Mapping[str, Any], line: Reply | None) -> str | ToolCall:
    """The answer to a chat completion: the line of the plan, where there is one.

    Otherwise it obeys the schema of the request, and repeats its model, its
    temperature, the instructions' beginning and the user's words.
    """
    match line:
        case Text(text):
            return text
        case ToolCall():
            return line
        case Fields(fields):
            derived = _derived(request)
            known: dict[str, Any] = json.loads(derived) if _schema(request) is not None else {}
            return json.dumps({**known, **fields}, ensure_ascii=False)
        case None:
            return _derived(request)


def spoken_answer(model: str, instructions: str, user: str, turn: int) -> str:
    """The answer of a model that speaks."""
    return plain_reply(Situation(model, None, instructions, user, turn, LABEL))


def _derived(request: Mapping[str, Any]) -> str:
    messages = request["messages"]
    said = [_text(message) for message in messages if message["role"] == "user"]
    told = [_text(message) for message in messages if message["role"] in ("system", "developer")]
    situation = Situation(
        model=request["model"],
        temperature=request.get("temperature"),
        instructions=told[0] if told else "",
        user=said[-1] if said else "",
        turn=len(said),
        label=LABEL,
    )
    schema = _schema(request)
    return plain_reply(situation) if schema is None else structured_reply(schema, situation)


def _schema(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    match request.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return schema
        case _:
            return None


def _text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)

"""The tools by which a model ends its session, or hands it on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

import structlog
from livekit.agents import FunctionToolsExecutedEvent, RunContext
from livekit.agents.llm import RawFunctionTool, ToolResult, function_tool
from livekit.agents.voice import SpeechHandle

from agent_node.job.speech import speak
from agent_node.job.tools.calls import Calls, ToolFailed
from agent_node.job.userdata import SessionData
from voxplane.errors import VoxplaneError
from voxplane.tools import END_SESSION, TRANSFER_PREFIX
from voxplane.v1.agent_config_pb2 import SessionConfig, TransferTarget

REASON_CHARS_MAX = 200
SPEECH_SECONDS_MAX = 30.0
"""Longest wait for what is said before a session ends or is handed on."""

REFUSED = "refused"

_EXECUTED = "function_tools_executed"
_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
_REASON = {
    "type": "object",
    "properties": {"reason": {"type": "string", "description": "Why it ends, in a few words."}},
    "required": ["reason"],
    "additionalProperties": False,
}
_END_DESCRIPTION = (
    "Ends the conversation for good. Call it when the user has said goodbye or wants nothing more, "
    "not when they pause or are unclear. Say nothing after it."
)

Context = RunContext[SessionData]
Tool = RawFunctionTool[..., Any]

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def session_tools(config: SessionConfig, announcements: Mapping[str, str], calls: Calls) -> list[Tool]:
    """The tools that the config allows. `announcements` has what is said before
    the session goes to an agent, by the agent's id; none means nothing. The
    session's userdata must be a SessionData."""
    tools = [
        _transfer_tool(target, announcements.get(target.agent_id, ""), calls) for target in config.transfers
    ]
    return [_end_tool(calls), *tools] if config.can_end_session else tools


def _end_tool(calls: Calls) -> Tool:
    async def end_session(context: RunContext[SessionData], raw_arguments: dict[str, Any]) -> ToolResult:
        reason = str(raw_arguments.get("reason", ""))[:REASON_CHARS_MAX]
        return await calls.run(END_SESSION, "session", _end(context, reason))

    schema = {"name": END_SESSION, "description": _END_DESCRIPTION, "parameters": _REASON}
    return function_tool(end_session, raw_schema=schema)


def _transfer_tool(target: TransferTarget, announcement: str, calls: Calls) -> Tool:
    name, agent_id = f"{TRANSFER_PREFIX}{target.agent_id}", target.agent_id

    async def transfer(context: RunContext[SessionData], raw_arguments: dict[str, Any]) -> ToolResult:
        return await calls.run(name, "session", _transfer(context, agent_id, announcement))

    schema = {"name": name, "description": target.description, "parameters": dict(_NO_PARAMETERS)}
    return function_tool(transfer, raw_schema=schema)


async def _end(context: Context, reason: str) -> ToolResult:
    await _within(context.wait_for_playout())
    try:
        context.userdata.control.end(now=False, reason=reason)
    except VoxplaneError as error:
        raise ToolFailed(REFUSED, f"The session cannot be ended: {error.message}") from None
    _stay_silent(context)
    return ToolResult("The session ends.", reply_required=False)


async def _transfer(context: Context, agent_id: str, announcement: str) -> ToolResult:
    await _within(context.wait_for_playout())
    if announcement:
        await _say(context, announcement)
    try:
        context.userdata.control.transfer(agent_id)
    except VoxplaneError as error:
        raise ToolFailed(REFUSED, f"The session cannot be handed on: {error.message}") from None
    _stay_silent(context)
    return ToolResult(f"The session is handed on to {agent_id}.", reply_required=False)


async def _say(context: Context, text: str) -> None:
    """Say it and wait for its end. A speech of its own may be waited for in a
    tool; the one that the tool belongs to may not."""
    try:
        handle = speak(context.session, text)
    except RuntimeError as error:
        # without a voice, or in a session that closes: the transfer counts
        _log.warning("an announcement was not said", error=type(error).__name__)
        return
    await _within(handle.wait_for_playout())


async def _within(speech: Awaitable[None]) -> None:
    try:
        await asyncio.wait_for(speech, SPEECH_SECONDS_MAX)
    except TimeoutError:
        _log.warning("speech took too long to wait for", seconds=SPEECH_SECONDS_MAX)


def _stay_silent(context: Context) -> None:
    """Other tools of the same step must not make the model go on."""
    session, call_id = context.session, context.function_call.call_id

    def on_executed(event: FunctionToolsExecutedEvent) -> None:
        if any(call.call_id == call_id for call in event.function_calls):
            event.cancel_tool_reply()

    def on_done(_: SpeechHandle) -> None:
        session.off(_EXECUTED, on_executed)  # pyright: ignore[reportUnknownMemberType]

    session.on(_EXECUTED, on_executed)  # pyright: ignore[reportUnknownMemberType]
    context.speech_handle.add_done_callback(on_done)

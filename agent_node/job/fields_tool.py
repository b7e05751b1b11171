"""The structured reply of a realtime model: it speaks by itself, and tells the
fields by calling a tool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from livekit.agents import RunContext
from livekit.agents.llm import RawFunctionTool, ToolResult, function_tool

from agent_node.job.json_stream import is_readable
from agent_node.job.reply_events import ReplyBegan, ReplyDone, ReplyEvent, ReplyField, disobeys, typed_reply
from agent_node.job.targets import Target
from agent_node.job.userdata import SessionData
from voxplane.schema import CompiledSchema
from voxplane.tools import SHOW_FIELDS

INSTRUCTION = (
    f"With every reply call the function {SHOW_FIELDS} once, with the fields of that reply; "
    "do not speak of it, and do not read the fields out."
)
_DESCRIPTION = "Tells the fields of your reply. Call it once with every reply."


def fields_tool(
    running: Callable[[], Target], schema: CompiledSchema, on_reply: Callable[[ReplyEvent], None]
) -> RawFunctionTool[..., Any]:
    """A tool by which the model of what is `running` tells its fields."""

    async def show_fields(context: RunContext[SessionData], raw_arguments: dict[str, Any]) -> ToolResult:
        target = running()
        on_reply(ReplyBegan(target))
        problem = None
        given = {name: value for name, value in raw_arguments.items() if is_readable(value)}
        try:
            context.userdata.reply = typed_reply(schema, given)
        except ValueError as error:
            problem = disobeys(error)
        shown: dict[str, Any] = {}
        for name in (each.field_name for each in schema.fields):
            if name not in schema.hidden_fields:
                value = given.get(name)
                shown[name] = schema.defaults.get(name) if value is None else value
        for name, value in shown.items():
            on_reply(ReplyField(name, value))
        on_reply(ReplyDone(target, shown, problem))
        return ToolResult("ok", reply_required=False)

    schema_of_tool = {"name": SHOW_FIELDS, "description": _DESCRIPTION, "parameters": schema.json_schema}
    return function_tool(show_fields, raw_schema=schema_of_tool)

"""A model that ends its session or hands it on, in real LiveKit sessions with
OpenAI's protocol on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from livekit.agents import Agent, AgentSession, RunContext, function_tool
from livekit.agents.llm import FunctionCallOutput
from livekit.agents.voice.io import TextOutput
from pydantic import BaseModel

from agent_node.job.tools import ToolCall, ToolSet, build_tools
from agent_node.job.userdata import SessionData
from agent_node.providers import BuildContext, SecretResolver, build_llm, new_context
from tests.unit.job.tool_world import gate_to, site, tool
from tests.vendors import Text, Vendors
from tests.vendors import ToolCall as ModelCalls
from voxplane.errors import VoxplaneError
from voxplane.node.v1.relay_service_pb2 import CallerContext
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig, LlmConfig

SECONDS_MAX = 20
CHAT = "/v1/chat/completions"


class Screen(TextOutput):
    """What the caller reads, in order, among what happens to the session."""

    def __init__(self, happened: list[str]) -> None:
        super().__init__(label="screen", next_in_chain=None)
        self._happened = happened
        self._text = ""

    async def capture_text(self, text: str) -> None:
        """A piece of speech."""
        self._text += text

    def flush(self) -> None:
        """All of it."""
        if self._text:
            self._happened.append(f"said: {self._text}")
        self._text = ""


@dataclass
class Control:
    """A SessionControl that writes down what it is asked; with `refusal` it refuses."""

    happened: list[str] = field(default_factory=list)
    refusal: VoxplaneError | None = None

    def end(self, *, now: bool, reason: str) -> None:
        """See SessionControl."""
        self._do(f"end: {reason}" if not now else "end now")

    def transfer(self, agent_id: str) -> None:
        """See SessionControl."""
        self._do(f"transfer: {agent_id}")

    def score(self, name: str, value: float) -> None:
        """See SessionControl."""
        self._do(f"score: {name}={value}")

    def _do(self, what: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.happened.append(what)


class OrderReply(BaseModel):
    """The fields of a reply, as a schema makes them."""

    order: str
    total: int


@dataclass
class Stage:
    """A session in which a turn can be played."""

    vendors: Vendors
    session: AgentSession[SessionData]
    control: Control
    calls: list[ToolCall]

    async def turn(self, text: str) -> None:
        """One message of the user, and all that it leads to."""
        async with asyncio.timeout(SECONDS_MAX):
            await self.session.generate_reply(user_input=text, input_modality="text")

    @property
    def requests(self) -> list[Any]:
        """What the model was asked."""
        return [each.body for each in self.vendors.recorder.of(CHAT)]

    @property
    def outputs(self) -> list[FunctionCallOutput]:
        """What the tools gave, as the history has it."""
        return [each for each in self.session.history.items if isinstance(each, FunctionCallOutput)]


@asynccontextmanager
async def stage(
    config: AgentConfig, *more: Any, gate: Any = None, announcements: dict[str, str] | None = None
) -> AsyncIterator[Stage]:
    """A session of the config's tools, and of those that the test adds."""
    context = new_context(SecretResolver(environ={"OPENAI_API_KEY": "o" * 20}))
    calls: list[ToolCall] = []
    control = Control()
    async with Vendors() as vendors:
        tools = await build_tools(
            config, context, announcements=announcements, on_call=calls.append, gate=gate
        )
        async with _session(vendors, context, tools, more, control) as session:
            yield Stage(vendors, session, control, calls)
        await tools.aclose()
        await context.aclose()


@asynccontextmanager
async def _session(
    vendors: Vendors, context: BuildContext, tools: ToolSet, more: tuple[Any, ...], control: Control
) -> AsyncIterator[AgentSession[SessionData]]:
    model = build_llm(LlmConfig(provider="openai", model="gpt", base_url=vendors.openai_url), context)
    data = SessionData(CallerContext(user_id="ann"), control, reply=OrderReply(order="A-7", total=12))
    session = AgentSession[SessionData](
        userdata=data, vad=None, turn_handling={"turn_detection": None}, user_away_timeout=None
    )
    session.output.transcription = Screen(control.happened)
    agent = Agent(instructions="Help.", llm=model, tools=[*tools.tools, *more])
    await session.start(agent, record=False)
    try:
        yield session
    finally:
        await session.aclose()
        await model.aclose()


def config(*agents: str, can_end: bool = False) -> AgentConfig:
    """A config that may hand on to the agents."""
    made = AgentConfig()
    made.session_config.can_end_session = can_end
    for agent in agents:
        made.session_config.transfers.add(agent_id=agent, description=f"Hands on to {agent}.")
    return made


async def test_the_model_ends_the_session_and_says_nothing_more() -> None:
    """The session's control is told why; the model is not asked again, though
    it had more to say."""
    async with stage(config(can_end=True)) as on:
        on.vendors.replies.append(ModelCalls("end_session", {"reason": "the caller said goodbye"}))
        on.vendors.replies.append(Text("And another thing."))
        await on.turn("Bye.")
        assert on.control.happened == ["end: the caller said goodbye"]
        assert len(on.requests) == 1
        assert [each.output for each in on.outputs] == ["The session ends."]
    assert [(each.tool, each.kind, each.status) for each in on.calls] == [("end_session", "session", "ok")]


async def test_a_transfer_is_announced_before_it_happens() -> None:
    """The announcement has been said when the control hands the session on, and
    the model says nothing more. The description is what the model is given."""
    async with stage(config("sales", "help"), announcements={"sales": "One moment, please."}) as on:
        on.vendors.replies.append(ModelCalls("transfer_to_sales"))
        await on.turn("I want to buy.")
        assert on.control.happened == ["said: One moment, please.", "transfer: sales"]
        assert len(on.requests) == 1
        shown = {each["function"]["name"]: each["function"] for each in on.requests[0]["tools"]}
        assert set(shown) == {"transfer_to_sales", "transfer_to_help"}
        assert shown["transfer_to_help"]["description"] == "Hands on to help."
        on.vendors.replies.append(ModelCalls("transfer_to_help"))
        await on.turn("Or help me.")
        assert on.control.happened[2:] == ["transfer: help"]


async def test_other_tools_of_the_step_do_not_make_the_model_go_on() -> None:
    """A tool whose answer the model would comment on does not, when the same
    step ends the session; in a later turn it does again."""

    @function_tool
    async def weather() -> str:
        """The weather."""
        return "sunny"

    async with stage(config(can_end=True), weather) as on:
        ending = next(each for each in on.session.current_agent.tools if each.id == "end_session")
        assert ending is not None
        on.vendors.replies.append(ModelCalls("weather"))
        on.vendors.replies.append(ModelCalls("end_session", {"reason": "done"}))
        on.vendors.replies.append(Text("It is sunny."))
        await on.turn("The weather, then bye.")
        assert len(on.requests) == 2
        on.vendors.replies.clear()
        on.vendors.replies.append(ModelCalls("weather"))
        on.vendors.replies.append(Text("Still sunny."))
        await on.turn("And now?")
        assert on.control.happened == ["end: done", "said: Still sunny."]


async def test_a_transfer_that_cannot_be_is_told_to_the_model() -> None:
    """The model is told why, and goes on with the caller."""
    async with stage(config("sales")) as on:
        on.control.refusal = VoxplaneError(reason_pb2.ERROR_REASON_AGENT_NOT_FOUND, "no agent sales")
        on.vendors.replies.append(ModelCalls("transfer_to_sales"))
        on.vendors.replies.append(Text("I cannot reach them."))
        await on.turn("I want to buy.")
        assert on.control.happened == ["said: I cannot reach them."]
        (output,) = on.outputs
        assert (output.is_error, output.output) == (True, "The session cannot be handed on: no agent sales")
    assert [each.message for each in on.calls] == ["transfer_to_sales: refused"]


async def test_a_config_without_them_gives_none() -> None:
    """What is not allowed is not there."""
    async with stage(config()) as on:
        on.vendors.replies.append(Text("Hello."))
        await on.turn("Hello.")
        assert not on.requests[0].get("tools")


async def test_a_tool_sees_the_session_and_its_last_reply() -> None:
    """A function tool has SessionData by LiveKit's injection: the fields of the
    last reply, as the generated model, and the session's control."""
    seen: list[Any] = []

    @function_tool
    async def confirm(context: RunContext[SessionData]) -> str:
        """Confirms the order."""
        data = context.userdata
        seen.append((data.caller.user_id, data.reply, data.fields))
        data.control.score("confirmed", 1.0)
        return f"{data.fields['order']} is confirmed"

    async with stage(config(), confirm) as on:
        on.vendors.replies.append(ModelCalls("confirm"))
        on.vendors.replies.append(Text("Done."))
        await on.turn("Yes.")
        assert on.control.happened == ["score: confirmed=1.0", "said: Done."]
        assert [each.output for each in on.outputs] == ["A-7 is confirmed"]
    assert seen == [("ann", OrderReply(order="A-7", total=12), {"order": "A-7", "total": 12})]


async def test_the_model_calls_an_http_tool_and_speaks_of_its_answer() -> None:
    """A whole turn: the model's arguments reach the server, its answer reaches
    the model; an error reaches the model too, and the session goes on."""
    async with site("crm.test", "127.0.0.2") as crm:
        made = AgentConfig(tools=[tool(f"{crm.url}/orders/{{id}}", method="GET")])
        async with stage(made, gate=gate_to(crm)) as on:
            on.vendors.replies.append(ModelCalls("look_up", {"id": "A-7"}))
            on.vendors.replies.append(Text("It is on its way."))
            await on.turn("Where is my order?")
            on.vendors.replies.append(ModelCalls("look_up", {"order": "A-8"}))
            on.vendors.replies.append(Text("Which one?"))
            await on.turn("And the other?")
            assert on.control.happened == ["said: It is on its way.", "said: Which one?"]
            first, second = on.outputs
            assert (first.is_error, first.output) == (False, '{"name": "crm.test"}')
            assert second.is_error
            assert "'id' is a required property" in second.output
            said_to_model = [each for each in on.requests[1]["messages"] if each["role"] == "tool"]
            assert [each["content"] for each in said_to_model] == ['{"name": "crm.test"}']
        assert [each.target for each in crm.seen] == ["/orders/A-7"]
        assert [each.status for each in on.calls] == ["ok", "invalid_arguments"]


@pytest.mark.parametrize("texts", [None, {"sales": ""}])
async def test_a_transfer_without_an_announcement_is_silent(texts: dict[str, str] | None) -> None:
    """Nothing is said that the config does not say."""
    async with stage(config("sales"), announcements=texts) as on:
        on.vendors.replies.append(ModelCalls("transfer_to_sales"))
        await on.turn("I want to buy.")
        assert on.control.happened == ["transfer: sales"]

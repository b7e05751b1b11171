"""A realtime model of the real plugin, against a server of its protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent_node.job.agent import VoxplaneAgent
from agent_node.job.live import follow
from agent_node.job.reply_events import ReplyBegan, ReplyDone, ReplyEvent, ReplyField
from agent_node.job.session import SessionSwap
from agent_node.job.staging import Builder
from agent_node.job.userdata import SessionData
from agent_node.job.voice_session import new_session
from agent_node.providers import SecretResolver, new_context
from tests.unit.job.job_world import SPOKEN_FIELDS, caller, delivery, offline_config
from tests.unit.job.test_voxplane_agent import Control, Ear
from tests.vendors import Text, ToolCall, Vendors
from voxplane.clock import SystemClock
from voxplane.tools import SHOW_FIELDS
from voxplane.v1.agent_config_pb2 import AgentConfig

SECONDS_MAX = 20.0
UPDATE, CREATE = "/v1/realtime/session.update", "/v1/realtime/response.create"


def realtime_config(vendors: Vendors, instructions: str, voice: str = "marin") -> AgentConfig:
    """A config with a realtime model and a schema."""
    model = {"enabled": True, "provider": "openai", "base_url": vendors.openai_url, "voice": voice}
    return offline_config(instructions, schema_config=SPOKEN_FIELDS, realtime_config=model)


class Call:
    """A session of a realtime model without a room."""

    def __init__(self, vendors: Vendors) -> None:
        keys = {"OPENAI_API_KEY": "o" * 20}
        builder = Builder(caller(), new_context(SecretResolver(environ=keys)))
        self.vendors = vendors
        self.replies: list[ReplyEvent] = []
        self.reported = asyncio.Event()
        self.swap = SessionSwap(caller(), builder, SystemClock(), report=lambda status: self.reported.set())
        self.data = SessionData(caller(), Control())

    async def start(self, config: AgentConfig) -> None:
        """Open the session with the config at revision 1."""
        self.swap.deliver(delivery(1, config))
        pipeline = await self.swap.first()
        self.session = new_session(pipeline, self.data)
        self.session.output.audio = Ear()
        agent = VoxplaneAgent(pipeline, self.replies.append)
        await self.session.start(agent, record=False)
        self.host = follow(self.session, agent, self.swap)

    async def runs(self, revision: int) -> None:
        """Wait until the revision makes the replies."""
        async with asyncio.timeout(SECONDS_MAX):
            while self.swap.running is None or self.swap.running.bundle.revision != revision:
                self.reported.clear()
                await self.reported.wait()
            await self.host.settled()

    async def say(self, words: str) -> None:
        """One turn."""
        handle = self.session.generate_reply(user_input=words)
        await asyncio.wait_for(handle.wait_for_playout(), SECONDS_MAX)

    async def aclose(self) -> None:
        """Hang up."""
        await self.session.aclose()
        await self.swap.aclose()


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    """A call that is about to start."""
    async with Vendors() as vendors:
        made = Call(vendors)
        yield made
        await made.aclose()


async def test_a_realtime_model_tells_its_fields_by_a_tool(call: Call) -> None:
    """The schema is the tool's; hidden fields do not come, defaults and the
    typed reply are there."""
    call.vendors.replies.append(ToolCall(SHOW_FIELDS, {"reply": "Hi.", "score": 7, "thought": "psst"}))
    await call.start(realtime_config(call.vendors, "Be kind."))
    await call.say("Hello?")
    assert [(e.name, e.value) for e in call.replies if isinstance(e, ReplyField)] == [
        ("reply", "Hi."),
        ("score", 7),
    ]
    [done] = [event for event in call.replies if isinstance(event, ReplyDone)]
    assert (done.problem, dict(done.fields)) == (None, {"reply": "Hi.", "score": 7})
    assert call.data.fields == {"reply": "Hi.", "score": 7, "thought": "psst"}
    tools = [
        tool
        for request in call.vendors.recorder.of(UPDATE)
        for tool in request.body["session"].get("tools", [])
    ]
    assert {tool["name"] for tool in tools} == {SHOW_FIELDS}
    assert set(tools[0]["parameters"]["properties"]) == {"reply", "score", "thought"}


async def test_fields_that_break_the_schema_are_a_problem_and_no_more(call: Call) -> None:
    """A wrong value is told with the field's path and not repeated; the call goes on."""
    call.vendors.replies.append(ToolCall(SHOW_FIELDS, {"reply": "Hi.", "score": 99}))
    call.vendors.replies.append(Text("Still here."))
    await call.start(realtime_config(call.vendors, "Be kind."))
    await call.say("Hello?")
    [done] = [event for event in call.replies if isinstance(event, ReplyDone)]
    assert done.problem is not None
    assert "score" in done.problem.message
    assert "99" not in done.problem.message
    await call.say("And now?")
    assert "Still here." in [m.text_content for m in call.session.history.messages()]


async def test_fields_are_told_as_the_config_in_force_says(call: Call) -> None:
    """A change that needs no new session of the model, as of what the frontend is
    sent, is in the next reply; a number that nobody can read is left out."""
    config = realtime_config(call.vendors, "Be kind.")
    await call.start(config)
    config.frontend_config.rpc_method = "show"
    call.swap.deliver(delivery(2, config))
    await call.runs(2)
    call.vendors.replies.append(ToolCall(SHOW_FIELDS, {"reply": "Hi.", "score": 10**400}))
    await call.say("Hello?")
    began = [event for event in call.replies if isinstance(event, ReplyBegan)]
    assert [each.target.bundle.revision for each in began] == [2]
    assert began[0].target.config.frontend_config.rpc_method == "show"
    [done] = [event for event in call.replies if isinstance(event, ReplyDone)]
    assert dict(done.fields) == {"reply": "Hi.", "score": None}


async def test_an_announcement_is_said_by_the_model_itself(call: Call) -> None:
    """A realtime model has no voice beside its own: it is asked to say what comes
    before a transfer, word for word."""
    config = realtime_config(call.vendors, "Be kind.")
    config.session_config.transfers.add(
        agent_id="sales", description="Sales.", announcement="I put you through."
    )
    call.vendors.replies.append(ToolCall("transfer_to_sales"))
    call.vendors.replies.append(Text("I put you through."))
    await call.start(config)
    await call.say("Sales, please.")
    assert "I put you through." in [m.text_content for m in call.session.history.messages()]
    asked = [request.body["response"] for request in call.vendors.recorder.of(CREATE)]
    assert "I put you through." in str(asked[-1].get("instructions"))


async def test_a_change_comes_by_a_new_session_of_the_model_with_the_history(call: Call) -> None:
    """Instructions and voice of a realtime model change at the next turn, and it
    knows what was said."""
    call.vendors.replies.append(Text("I am the first."))
    await call.start(realtime_config(call.vendors, "Be the first."))
    await call.say("Who are you?")
    call.vendors.replies.append(Text("I am the second."))
    call.swap.deliver(delivery(2, realtime_config(call.vendors, "Be the second.", "cedar")))
    await call.runs(2)
    await call.say("And you?")
    said = [(m.role, m.text_content) for m in call.session.history.messages() if m.role != "system"]
    assert said == [
        ("user", "Who are you?"),
        ("assistant", "I am the first."),
        ("user", "And you?"),
        ("assistant", "I am the second."),
    ]
    updates = [request.body["session"] for request in call.vendors.recorder.of(UPDATE)]
    assert any("Be the second." in str(update.get("instructions")) for update in updates)
    assert any("cedar" in str(update) for update in updates)

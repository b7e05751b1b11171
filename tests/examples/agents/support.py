"""A hard-coded agent with one of everything that a config can or cannot hold."""

from __future__ import annotations

import enum
from typing import Annotated, Any, Literal, Optional, Required, TypedDict

from annotated_types import Gt, Len, MultipleOf
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, function_tool
from livekit.agents.llm.mcp import MCPServerHTTP, MCPToolset
from livekit.plugins import deepgram, openai, silero
from pydantic import Field

COMPANY = "Acme"


class Mood(enum.Enum):
    """How the caller is."""

    CALM = "calm"
    ANGRY = "angry"


class Order(TypedDict):
    """An order."""

    number: str
    """Its number, as the caller says it."""
    total: float


class Reply(TypedDict, total=False):
    """What the agent answers.

    text: What is said,
        in one or two sentences.
    mood: How the caller is.
    """

    text: Required[str]
    mood: Required[Mood]
    stars: Required[Literal[1, 2, 3]]
    order: Order
    items: Annotated[list[str], Len(1, 5)]
    rating: Annotated[int, Gt(0), MultipleOf(5)]
    promised: bool | None
    code: Annotated[str, Field(pattern="^[A-Z]{3}$", description="The voucher.")]
    note: Optional[str]  # noqa: UP045
    either: str | int
    anything: dict[str, Any]


class Support(Agent):
    """Helps the callers of a shop."""

    def __init__(self, caller_name: str, ticket: str, lines: int = 3) -> None:
        super().__init__(
            instructions=f"Help {caller_name} of {COMPANY}. Never write {{{{ or }}}}. Use {lines} sentences.",
            stt=openai.STT(model="gpt-4o-transcribe", language="de"),
            llm=openai.LLM(
                model="gpt-4o", top_p=0.5, base_url="http://127.0.0.1:9/v1", max_completion_tokens=300
            ),
            tools=[
                MCPToolset(
                    id="shop_tools", mcp_server=MCPServerHTTP("http://127.0.0.1:9/mcp", headers={"a": "b"})
                )
            ],
        )

    @function_tool
    async def order_status(self, number: str, detailed: bool = False) -> str:
        """Looks up an order.

        Args:
            number: The order's number.
            detailed: Whether to tell everything.
        """
        return "sent"

    async def on_enter(self) -> None:
        """Greet."""
        await self.session.say(f"{COMPANY}, good morning!", allow_interruptions=False)

    async def on_user_turn_completed(self, turn_ctx: Any, new_message: Any) -> None:
        """Count."""


server = AgentServer()


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """Each call gets an agent of its own."""
    caller = ctx.job.metadata
    session = AgentSession[None](
        stt=deepgram.STT(),
        tts=deepgram.TTS(model="aura-2-thalia-en"),
        vad=silero.VAD.load(min_silence_duration=0.4),
        userdata=caller,
        min_endpointing_delay=0.7,
        turn_handling={"interruption": {"enabled": False}, "preemptive_generation": {"enabled": True}},
    )
    await session.start(Support(caller, "T-1"), room=ctx.room)
    await session.generate_reply(instructions=f"Ask {caller} for the order.")

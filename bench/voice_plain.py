"""The peer of bench.voice: the same agent as teams hard-code it, in a worker of
livekit-agents with the same plugins, settings and warm processes. It has the
bench's keys in its job's metadata, and nothing of Voxplane."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from livekit import rtc
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, JobProcess, ModelSettings, cli
from livekit.agents.llm import ChatChunk, ChatContext, Tool
from livekit.plugins import deepgram, openai, silero
from pydantic_core import from_json
from typing_extensions import TypedDict

AGENT_NAME = "plain"
GREETING = "Welcome to the exam."
INSTRUCTIONS = "You examine."
ENDPOINTING_SECONDS = 0.1
IDLE_PROCESSES = 2


class Reply(TypedDict):
    """What the examiner answers."""

    tone: str
    answer: str
    score: int


class Examiner(Agent):
    """Speaks `answer` in the way that `tone` says."""

    def __init__(self, url: str, keys: dict[str, str]) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            instructions=INSTRUCTIONS,
            stt=deepgram.STT(
                model="nova-3", language="en-US", base_url=f"{url}/v1/listen", api_key=keys["deepgram"]
            ),
            llm=openai.LLM(model="gpt-4.1", base_url=f"{url}/v1", api_key=keys["openai"]),
            tts=openai.TTS(
                model="gpt-4o-mini-tts",
                voice="alloy",
                response_format="wav",
                base_url=f"{url}/v1",
                api_key=keys["voice"],
            ),
        )
        self._untyped: Any = self  # what the base class has is typed in part

    async def on_enter(self) -> None:
        """Greet."""
        self._untyped.session.say(GREETING)

    async def llm_node(
        self, chat_ctx: ChatContext, tools: list[Tool], model_settings: ModelSettings
    ) -> AsyncIterator[ChatChunk | str]:
        """Ask for a Reply, and hand its JSON on."""
        async with self._untyped.llm.chat(chat_ctx=chat_ctx, tools=tools, response_format=Reply) as stream:
            async for chunk in stream:
                yield chunk

    async def tts_node(
        self, text: AsyncIterable[str], model_settings: ModelSettings
    ) -> AsyncIterator[rtc.AudioFrame]:
        """Speak the answer; the greeting is no JSON."""

        async def spoken() -> AsyncIterator[str]:
            written, said = "", 0
            async for piece in text:
                written += piece
                if not written.lstrip().startswith("{"):
                    yield piece
                    continue
                reply = from_json(written, allow_partial="trailing-strings")
                answer = reply.get("answer", "")
                if answer and not said:
                    self._untyped.tts.update_options(instructions=reply.get("tone", ""))
                if len(answer) > said:
                    yield answer[said:]
                    said = len(answer)

        async for frame in Agent.default.tts_node(self, spoken(), model_settings):
            yield frame


def prewarm(process: JobProcess) -> None:
    """Read silero's model before a call comes."""
    process.userdata["vad"] = silero.VAD.load()


def never_full() -> float:
    """The load that LiveKit is told: it offers no call to a worker with more than 0.7."""
    return 0.0


server = AgentServer(
    setup_fnc=prewarm,
    num_idle_processes=IDLE_PROCESSES,
    load_fnc=never_full,
    host="127.0.0.1",
    port=0,
)


@server.rtc_session(agent_name=AGENT_NAME)
async def entrypoint(ctx: JobContext) -> None:
    """Each call gets an examiner of its own."""
    about = json.loads(ctx.job.metadata)
    session = AgentSession[None](
        vad=ctx.proc.userdata["vad"],
        turn_handling={
            "turn_detection": "vad",
            "interruption": {"mode": "vad"},
            "endpointing": {"min_delay": ENDPOINTING_SECONDS, "max_delay": ENDPOINTING_SECONDS},
            "preemptive_generation": {"enabled": False},
        },
        session_close_transcript_timeout=0.3,
    )
    session.on("close", lambda _: ctx.shutdown())  # pyright: ignore
    agent = Examiner(about["url"], about["keys"])
    await session.start(agent, room=ctx.room, record=False)  # pyright: ignore[reportUnknownMemberType]


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "start"]
    cli.run_app(server)

"""A hard-coded LiveKit agent, as teams write them: an interviewer for the
speaking part of the PTE exam. Each change of it is a deploy.

    python examples/hardcoded/pte_interview.py dev
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated, Any, Literal, NotRequired

from livekit import rtc
from livekit.agents import Agent, AgentServer, AgentSession, JobContext, ModelSettings, cli
from livekit.agents.llm import ChatChunk, ChatContext, Tool
from livekit.plugins import deepgram, openai
from pydantic import Field
from pydantic_core import from_json
from typing_extensions import TypedDict

INSTRUCTIONS = """\
You are an interviewer for the speaking part of the PTE exam. Lead the candidate
through the parts in order: introduction, read aloud, repeat sentence, describe
image, closing. Ask for one thing at a time, and never give the answer away.
Score each answer from 10 to 90. Speak plainly and stay friendly.
"""


class PteReply(TypedDict):
    """One turn of the interviewer.

    voice_instructions: How to speak this turn: tone, pace and stress.
    response: What the interviewer says.
    part: The part of the exam that the turn belongs to.
    """

    voice_instructions: str
    response: str
    part: Literal["introduction", "read_aloud", "repeat_sentence", "describe_image", "closing"]
    fluency: NotRequired[
        Annotated[int, Field(ge=10, le=90, description="Score of the last answer's fluency.")]
    ]
    pronunciation: NotRequired[
        Annotated[int, Field(ge=10, le=90, description="Score of the last answer's pronunciation.")]
    ]
    mistakes: NotRequired[Annotated[list[str], Field(description="Words that were wrong or missing.")]]


class PteInterviewer(Agent):
    """Interviews a candidate for the speaking part of the PTE exam."""

    def __init__(self) -> None:
        super().__init__(
            instructions=INSTRUCTIONS,
            stt=deepgram.STT(model="nova-3", language="en-US"),
            llm=openai.LLM(model="gpt-4o-mini", temperature=0.3),
            tts=openai.TTS(model="gpt-4o-mini-tts", voice="ash"),
        )

    async def on_enter(self) -> None:
        """Begin."""
        self.session.generate_reply(instructions="Welcome the candidate and ask for the full name.")

    async def llm_node(
        self, chat_ctx: ChatContext, tools: list[Tool], model_settings: ModelSettings
    ) -> AsyncIterator[ChatChunk | str]:
        """Ask for a PteReply, and hand its JSON on."""
        model: Any = self.llm
        async with model.chat(chat_ctx=chat_ctx, tools=tools, response_format=PteReply) as stream:
            async for chunk in stream:
                yield chunk

    async def tts_node(
        self, text: AsyncIterable[str], model_settings: ModelSettings
    ) -> AsyncIterator[rtc.AudioFrame]:
        """Speak `response` in the way that `voice_instructions` say."""

        async def spoken() -> AsyncIterator[str]:
            voice: Any = self.tts
            written, said = "", 0
            async for piece in text:
                written += piece
                reply = from_json(written, allow_partial="trailing-strings")
                response = reply.get("response", "")
                if response and not said:
                    voice.update_options(instructions=reply.get("voice_instructions", ""))
                if len(response) > said:
                    yield response[said:]
                    said = len(response)

        async for frame in Agent.default.tts_node(self, spoken(), model_settings):
            yield frame


server = AgentServer()


@server.rtc_session()
async def entrypoint(ctx: JobContext) -> None:
    """Each call gets an interviewer of its own."""
    await AgentSession().start(PteInterviewer(), room=ctx.room)


if __name__ == "__main__":
    cli.run_app(server)

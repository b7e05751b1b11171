"""The real OpenAI and Deepgram plugins in a job's session, built, called and swapped.

The session is a job's own, with the swap engine, the agent and the models of
`agent_node`; the vendors' protocols are spoken by a server, and in place of a
room there is a microphone and a loudspeaker of the test.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from livekit import rtc
from livekit.agents import ConversationItemAddedEvent
from livekit.agents.voice.io import AudioInput, AudioOutput, AudioOutputCapabilities

from agent_node.job.agent import VoxplaneAgent
from agent_node.job.live import follow
from agent_node.job.outcomes import Outcome
from agent_node.job.reply_events import ReplyDone, ReplyEvent
from agent_node.job.session import SessionSwap
from agent_node.job.staging import Builder
from agent_node.job.swap import Applied, Refused
from agent_node.job.userdata import SessionData
from agent_node.job.voice_session import new_session
from agent_node.providers import SecretResolver, new_context
from tests.unit.job.test_voxplane_agent import Control
from tests.vendors import Fault, Vendors
from tests.vendors.sound import tone
from voxplane.clock import SystemClock
from voxplane.digest import content_hash
from voxplane.node.v1.relay_service_pb2 import BundleDelivery, CallerContext
from voxplane.v1.agent_config_pb2 import AgentConfig, SttConfig, TtsConfig

CHAT, SPEECH, LISTEN, SPEAK = "/v1/chat/completions", "/v1/audio/speech", "/v1/listen", "/v1/speak"
TURN_SECONDS_MAX = 20
EAR_RATE = 16_000
SECOND = "s" * 20


class Microphone(AudioInput):
    """What the caller says."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._frames: asyncio.Queue[rtc.AudioFrame] = asyncio.Queue()

    async def __anext__(self) -> rtc.AudioFrame:
        return await self._frames.get()

    def speak(self) -> None:
        """Half a second of a tone, then of silence, in frames of 50 ms."""
        pcm = tone("caller", "some words of the caller", EAR_RATE) + b"\0\0" * (EAR_RATE // 2)
        step = EAR_RATE // 20 * 2
        for start in range(0, len(pcm) - step + 1, step):
            self._frames.put_nowait(rtc.AudioFrame(pcm[start : start + step], EAR_RATE, 1, step // 2))


class Loudspeaker(AudioOutput):
    """What the caller hears, all at once."""

    def __init__(self) -> None:
        super().__init__(label="loudspeaker", capabilities=AudioOutputCapabilities(pause=False))
        self.heard: list[float] = []
        self._seconds = 0.0

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Hear a frame."""
        await super().capture_frame(frame)
        self._seconds += frame.duration

    def flush(self) -> None:
        """The reply has been spoken."""
        super().flush()
        if self._seconds:
            self.heard.append(self._seconds)
            seconds, self._seconds = self._seconds, 0.0
            self.on_playback_finished(playback_position=seconds, interrupted=False)

    def clear_buffer(self) -> None:
        """The reply was interrupted."""
        self.flush()


class Call:
    """A voice call without a room."""

    def __init__(self, vendors: Vendors) -> None:
        keys = {"OPENAI_API_KEY": "o" * 20, "DEEPGRAM_API_KEY": "d" * 20, "SECOND_API_KEY": SECOND}
        caller = CallerContext(session_id="s-1", tenant_id="acme", agent_id="interview", user_id="ann")
        self._caller = caller
        self.builder = Builder(caller, new_context(SecretResolver(environ=keys)))
        self.outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        self.replies: asyncio.Queue[ReplyDone] = asyncio.Queue()
        self.spoken: asyncio.Queue[str] = asyncio.Queue()
        self.microphone, self.loudspeaker = Microphone(), Loudspeaker()
        self._swap = SessionSwap(
            caller, self.builder, SystemClock(), report=lambda _: None, notice=self.outcomes.put_nowait
        )
        self._vendors = vendors
        self._version = 0

    async def start(self, config: AgentConfig) -> None:
        """Open the session with the config."""
        self._deliver(config)
        pipeline = await self._swap.first()
        self.session = new_session(pipeline, SessionData(self._caller, Control()))
        self.session.input.audio = self.microphone
        self.session.output.audio = self.loudspeaker
        self.session.on("conversation_item_added", self._on_item)
        agent = VoxplaneAgent(pipeline, self._on_reply)
        await self.session.start(agent, record=False)
        follow(self.session, agent, self._swap)
        assert isinstance(await self.outcomes.get(), Applied)

    async def change(self, config: AgentConfig) -> Outcome:
        """Deliver the config as a new version; what became of it."""
        self._deliver(config)
        while True:
            outcome = await asyncio.wait_for(self.outcomes.get(), TURN_SECONDS_MAX)
            if isinstance(outcome, Applied | Refused):
                return outcome

    async def say(self, words: str) -> tuple[str, ReplyDone]:
        """The caller speaks, and is heard as `words`; the spoken reply."""
        self._vendors.transcripts.append(words)
        self.microphone.speak()
        async with asyncio.timeout(TURN_SECONDS_MAX):
            return await self.spoken.get(), await self.replies.get()

    async def aclose(self) -> None:
        """Hang up."""
        await self.session.aclose()
        await self._swap.aclose()

    def _deliver(self, config: AgentConfig) -> None:
        self._version += 1
        digest = content_hash(config)
        delivery = BundleDelivery()
        delivery.bundle.name = "tenants/acme/agents/interview"
        delivery.bundle.etag = digest
        delivery.bundle.revision = self._version
        delivery.bundle.aliases["live"] = self._version
        delivery.bundle.versions.add(number=self._version, content_hash=digest)
        delivery.contents.add(content_hash=digest).config.CopyFrom(config)
        self._swap.deliver(delivery)

    def _on_item(self, event: ConversationItemAddedEvent) -> None:
        if getattr(event.item, "role", "") == "assistant":
            self.spoken.put_nowait(event.item.text_content or "")

    def _on_reply(self, event: ReplyEvent) -> None:
        if isinstance(event, ReplyDone):
            self.replies.put_nowait(event)


@pytest.fixture
async def vendors() -> AsyncIterator[Vendors]:
    """Both vendors."""
    async with Vendors() as servers:
        yield servers


@pytest.fixture
async def call(vendors: Vendors) -> AsyncIterator[Call]:
    """A call; the test starts it."""
    made = Call(vendors)
    yield made
    await made.aclose()
    assert made.builder.closer.open == 0


def first_config(vendors: Vendors) -> AgentConfig:
    """An agent of OpenAI and Deepgram with a spoken field and one that says how to speak."""
    config = AgentConfig()
    config.prompt_config.instructions = "You interview {{ user_id }}."
    fields = config.schema_config.fields
    fields.add(field_name="system_response", field_type="string", required=True).metadata.use_in_tts = True
    fields.add(field_name="voice_instructions", field_type="string", required=True)
    llm = config.llm_config
    llm.provider, llm.model, llm.temperature = "openai", "gpt-one", 0.2
    llm.base_url = vendors.openai_url
    config.stt_config.CopyFrom(SttConfig(provider="deepgram", language="en-US", base_url=vendors.url))
    tts = config.tts_config
    tts.provider, tts.voice, tts.base_url = "openai", "coral", vendors.openai_url
    tts.instruction_field = "voice_instructions"
    config.turn_config.min_endpointing_delay.FromMilliseconds(0)
    return config


def last(vendors: Vendors, path: str) -> Any:
    """The body of the newest request."""
    return vendors.recorder.of(path)[-1].body


def messages(body: Any, role: str) -> list[str]:
    """What one role says in a chat request."""
    return [str(each["content"]) for each in body["messages"] if each["role"] == role]


async def test_a_call_is_heard_answered_and_spoken_by_the_vendors(vendors: Vendors, call: Call) -> None:
    """Speech goes to Deepgram, its words to OpenAI with the schema, and the spoken
    field alone back to OpenAI's voice, as the reply's own instructions want it."""
    await call.start(first_config(vendors))
    spoken, reply = await call.say("hello there")

    chat = last(vendors, CHAT)
    assert (chat["model"], chat["temperature"]) == ("gpt-one", 0.2)
    assert chat["response_format"]["json_schema"]["strict"] is True
    assert next(iter(chat["response_format"]["json_schema"]["schema"]["properties"])) == "voice_instructions"
    assert messages(chat, "system") == ["You interview ann."]
    assert messages(chat, "user") == ["hello there"]
    assert spoken == reply.fields["system_response"]
    assert reply.problem is None
    speech = [request.body for request in vendors.recorder.of(SPEECH)]
    assert {body["voice"] for body in speech} == {"coral"}
    assert {body["instructions"] for body in speech} == {reply.fields["voice_instructions"]}
    assert " ".join(body["input"] for body in speech).split() == spoken.split()
    assert len(call.loudspeaker.heard) == 1


async def test_models_are_swapped_between_two_turns_of_a_call(vendors: Vendors, call: Call) -> None:
    """The next turn uses the new model, temperature, language and voice; the history is kept."""
    config = first_config(vendors)
    await call.start(config)
    await call.say("first words")

    config.prompt_config.instructions = "You sell to {{ user_id }}."
    config.llm_config.model, config.llm_config.temperature = "gpt-two", 0.9
    config.tts_config.voice = "sage"
    config.stt_config.language = "de"
    assert isinstance(await call.change(config), Applied)
    await vendors.recorder.wait(LISTEN, 2)
    spoken_before = len(vendors.recorder.of(SPEECH))
    await call.say("zweite worte")

    chat = last(vendors, CHAT)
    assert (chat["model"], chat["temperature"]) == ("gpt-two", 0.9)
    assert messages(chat, "system")[0] == "You sell to ann."
    assert messages(chat, "user") == ["first words", "zweite worte"]
    assert len(messages(chat, "assistant")) == 1
    assert {request.body["voice"] for request in vendors.recorder.of(SPEECH)[spoken_before:]} == {"sage"}
    assert [request.query["language"] for request in vendors.recorder.of(LISTEN)] == ["en-US", "de"]


async def test_a_vendor_is_swapped_for_another(vendors: Vendors, call: Call) -> None:
    """From OpenAI's voice to Deepgram's in the running call, without a word to the old one."""
    config = first_config(vendors)
    await call.start(config)
    await call.say("first words")
    by_openai = len(vendors.recorder.of(SPEECH))

    config.tts_config.CopyFrom(TtsConfig(provider="deepgram", voice="thalia", base_url=vendors.url))
    assert isinstance(await call.change(config), Applied)
    spoken, _ = await call.say("second words")

    said = vendors.recorder.of(SPEAK)
    assert {request.query["model"] for request in said} == {"aura-2-thalia-en"}
    assert " ".join(request.body["text"] for request in said).split() == spoken.split()
    assert len(vendors.recorder.of(SPEECH)) == by_openai
    assert len(call.loudspeaker.heard) == 2


async def test_a_config_that_cannot_be_built_leaves_the_call_as_it_is(vendors: Vendors, call: Call) -> None:
    """Without its key a new model is refused at its path, and the old one answers on."""
    config = first_config(vendors)
    await call.start(config)
    config.llm_config.model, config.llm_config.api_key = "gpt-two", "env:MISSING_API_KEY"
    outcome = await call.change(config)

    assert isinstance(outcome, Refused)
    assert outcome.error.reason_name == "SECRET_UNAVAILABLE"
    assert outcome.error.violations[0].field == "llm_config.api_key"
    await call.say("still there?")
    assert last(vendors, CHAT)["model"] == "gpt-one"


async def test_a_change_of_the_schema_shows_in_the_next_reply(vendors: Vendors, call: Call) -> None:
    """A new field is asked of OpenAI and comes with the next reply."""
    config = first_config(vendors)
    await call.start(config)
    config.schema_config.fields.add(field_name="score", field_type="integer", required=True)
    await call.change(config)
    _, reply = await call.say("how am I doing?")

    assert isinstance(reply.fields["score"], int)
    assert "score" in json.dumps(last(vendors, CHAT)["response_format"])


async def test_fallbacks_keep_a_call_going_when_every_first_vendor_fails(
    vendors: Vendors, call: Call
) -> None:
    """OpenAI hears for Deepgram, another model answers, another voice speaks as the reply wants it."""
    config = first_config(vendors)
    config.stt_config.fallbacks.add(provider="openai", base_url=vendors.openai_url)
    other = {"provider": "openai", "base_url": vendors.openai_url, "api_key": "env:SECOND_API_KEY"}
    config.llm_config.fallbacks.add(model="gpt-two", **other)
    config.tts_config.fallbacks.add(voice="sage", **other)
    config.llm_config.timeout.FromMilliseconds(500)
    config.tts_config.timeout.FromMilliseconds(500)
    vendors.recorder.break_next(LISTEN, Fault.ERROR, times=100)
    vendors.recorder.break_next(CHAT, Fault.HANG, times=100, key="o" * 20)
    vendors.recorder.break_next(SPEECH, Fault.ERROR, times=100, key="o" * 20)
    await call.start(config)
    spoken, reply = await call.say("hello there")

    [chat] = [request.body for request in vendors.recorder.of(CHAT, SECOND)]
    assert (chat["model"], messages(chat, "user")) == ("gpt-two", ["hello there"])
    speech = [request.body for request in vendors.recorder.of(SPEECH, SECOND)]
    assert {body["voice"] for body in speech} == {"sage"}
    assert {body["instructions"] for body in speech} == {reply.fields["voice_instructions"]}
    assert " ".join(body["input"] for body in speech).split() == spoken.split()
    assert len(call.loudspeaker.heard) == 1


async def test_a_call_survives_an_llm_that_hangs(vendors: Vendors, call: Call) -> None:
    """Without a fallback the turn fails within the config's time, not LiveKit's, and the next works."""
    config = first_config(vendors)
    config.llm_config.timeout.FromMilliseconds(300)
    config.llm_config.max_retries = 1
    await call.start(config)
    vendors.recorder.break_next(CHAT, Fault.HANG, times=2)
    vendors.transcripts.append("are you there")
    call.microphone.speak()
    await asyncio.wait_for(vendors.recorder.wait(CHAT, 2), TURN_SECONDS_MAX)
    await call.say("hello again")
    assert messages(last(vendors, CHAT), "user")[-1] == "hello again"

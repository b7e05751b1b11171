"""Calls under measurement: a stage of real programs, and either subject on it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

import psutil
from livekit import api

from bench.voice_figures import Reply, Subject
from bench.voice_plain import AGENT_NAME, GREETING, IDLE_PROCESSES, INSTRUCTIONS
from tests.livekit.calls import Call
from tests.livekit.calls import Reply as HeardReply
from tests.livekit.inside import LIVEKIT_URL
from tests.livekit.program import Program
from tests.livekit.stage import API_KEY, API_SECRET, READY_SECONDS_MAX, Stage
from tests.livekit.tenants import FIELDS_METHOD, TOPICS, Tenant
from tests.vendors import Fields
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.schema_pb2 import SchemaField

WORDS = "good morning, i am ready now"
ANSWER = "Then let us begin, and please tell me in your own words what you can see in the picture."
APPLIED_SECONDS_MAX = 20.0


class Line(Tenant):
    """A tenant whose calls go to a subject."""

    def __init__(self, stage: Stage, subject: Subject) -> None:
        super().__init__(stage, subject)
        self.subject = subject

    def examiner(self) -> AgentConfig:
        """The config of the agent that bench.voice_plain has as a class."""
        tone = SchemaField(field_name="tone", field_type="string", required=True)
        answer = SchemaField(field_name="answer", field_type="string", required=True)
        score = SchemaField(field_name="score", field_type="integer", required=True)
        answer.metadata.use_in_tts = True
        config = self.config(tone, answer, score, instructions=INSTRUCTIONS)
        config.tts_config.instruction_field = "tone"
        config.session_config.greeting = GREETING
        return config

    def ticket(
        self, call: Call, agent_id: str, *, user: str = "", variables: Mapping[str, str] | None = None
    ) -> str:
        """The caller's ticket to the room, which sends the subject's agent there too."""
        if self.subject == "voxplane":
            return super().ticket(call, agent_id, user=user, variables=variables)
        metadata = json.dumps({"url": self.stage.vendors_url, "keys": self.keys})
        token = api.AccessToken(API_KEY, API_SECRET).with_identity("caller")
        token = token.with_grants(api.VideoGrants(room_join=True, room=call.room))
        sent = api.RoomAgentDispatch(agent_name=AGENT_NAME, metadata=metadata)
        return token.with_room_config(api.RoomConfiguration(agents=[sent])).to_jwt()


@dataclass(frozen=True, slots=True)
class Dialled:
    """A call that has begun: seconds until the agent listens, and until its first sound."""

    call: Call
    ready: float
    first_sound: float


@asynccontextmanager
async def plain_worker(stage: Stage) -> AsyncGenerator[Program]:
    """The peer's worker, registered and warm; ended with the block."""
    worker = Program(
        "plain",
        (sys.executable, "-m", "bench.voice_plain"),
        namespace=stage.network,
        folder=stage.folder,
        environment={
            "LIVEKIT_URL": LIVEKIT_URL,
            "LIVEKIT_API_KEY": API_KEY,
            "LIVEKIT_API_SECRET": API_SECRET,
        },
    )
    await worker.start()
    try:
        await _said(worker, "registered worker", 1)
        await _said(worker, "process initialized", IDLE_PROCESSES)
        yield worker
    finally:
        await worker.stop()


async def dial(line: Line) -> Dialled:
    """Call, and hear the greeting to its end. Raises CallError."""
    call = line.line()
    token = line.ticket(call, "interviewer")
    began = time.monotonic()
    await call.join(token, methods=[FIELDS_METHOD], topics=TOPICS)
    ready = await call.agent("listening", "speaking")
    sound = await call.wait("speech_began")
    await call.wait("speech_heard")
    return Dialled(call, ready.at - began, sound.at - began)


async def turn(line: Line, call: Call) -> Reply:
    """One turn. Raises CallError."""
    await line.stage.vendors.answer(Fields({"answer": ANSWER}), key=line.keys["openai"])
    return _reply(await call.turn(WORDS))


async def turn_with_swap(line: Line, call: Call, number: int) -> Reply:
    """A turn in which the config changes while the agent speaks. Raises CallError."""
    await line.stage.vendors.answer(Fields({"answer": ANSWER}), key=line.keys["openai"])
    since = len(call.events)
    _, spoken_at = await call.speak(WORDS)
    await call.wait("speech_began", since=since)
    await change(line, number)
    return _reply(await call.reply(WORDS, since=since, spoken_at=spoken_at))


async def change(line: Line, number: int) -> tuple[int, float]:
    """Change instructions and voice; the revision, and when it was committed."""
    config = line.examiner()
    config.prompt_config.instructions = f"{INSTRUCTIONS} This is change {number}."
    config.tts_config.voice = ("alloy", "verse")[number % 2]
    answer = await line.update(config, "prompt_config.instructions", "tts_config.voice")
    return answer.revision.number, answer.revision.commit_time.ToNanoseconds() / 1e9


async def applied(stage: Stage, revision: int, calls: int) -> list[float]:
    """When each of the calls had the revision, in seconds since 1970."""
    found = await stage.node.logged(
        "config applied", calls, APPLIED_SECONDS_MAX, tenant_id="voxplane", revision=revision
    )
    return [datetime.fromisoformat(entry["timestamp"]).timestamp() for entry in found]


class Processes:
    """A program and all below it."""

    def __init__(self, program: Program) -> None:
        self._pid = program.process.pid

    def pss(self) -> float:
        """Their memory in bytes, what is shared by parts."""
        return sum(self._of_each("memory_full_info", "pss"))

    def cpu_seconds(self) -> float:
        """User and system time of those that run."""
        return sum(self._of_each("cpu_times", "user")) + sum(self._of_each("cpu_times", "system"))

    def _of_each(self, what: str, name: str) -> list[float]:
        found: list[float] = []
        root = psutil.Process(self._pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                found.append(getattr(getattr(process, what)(), name))
        return found


def _reply(heard: HeardReply) -> Reply:
    return Reply(
        delay=heard.seconds,
        gap=heard.heard.longest_quiet_seconds,
        wait=heard.heard.longest_wait_seconds,
        concealed=heard.concealed_samples,
    )


async def _said(program: Program, words: str, count: int) -> None:
    """Until it has said it so often: its log is for people."""
    async with asyncio.timeout(READY_SECONDS_MAX):
        while program.log.read_text(errors="replace").count(words) < count:
            if not program.running:
                raise program.failure("does not come up")
            await asyncio.sleep(0.05)

"""A call, as the test holds it: what it does, and all that happened in it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.livekit.ear import Heard
from tests.livekit.inside import LIVEKIT_URL
from tests.livekit.program import Program
from tests.livekit.speech import speech_of

READY_SECONDS_MAX = 20.0
WAIT_SECONDS = 40.0

Hears = Callable[[str], Awaitable[None]]
"""Is told, before it is said, what an utterance is to be heard as."""


class CallError(Exception):
    """The caller's side refused, or what was waited for did not happen."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a call, at a time.monotonic() that all processes share."""

    kind: str
    at: float
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


@dataclass(frozen=True, slots=True)
class Reply:
    """A turn: what the caller's words were heard as, and what the agent answered.

    `heard` is the agent's audio. Times are those of time.monotonic().
    """

    words: str
    text: str
    heard: Heard
    concealed_samples: int
    lost_packets: int
    spoken_at: float

    @property
    def seconds(self) -> float:
        """From the end of the caller's words to the beginning of the agent's."""
        return self.heard.began - self.spoken_at


class Callers:
    """The process of the callers."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self._folder = folder
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._calls: dict[str, Call] = {}
        self._ready = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process. Raises ProgramError."""
        await self.program.start()
        self._reading = asyncio.create_task(self._read())
        try:
            await asyncio.wait_for(self._ready.wait(), READY_SECONDS_MAX)
        except TimeoutError:
            raise self.program.failure("does not come up") from None

    async def stop(self) -> None:
        """All hang up, and the process ends."""
        if self.program.running and self.program.process.stdin is not None:
            self.program.process.stdin.close()
            try:
                await asyncio.wait_for(self.program.process.wait(), 5)
            except TimeoutError:
                await self.program.stop()
        if self._reading is not None:
            await self._reading

    def call(self, room: str, hears: Hears) -> Call:
        """A call that is about to begin; `hears` is told what will be said."""
        self._calls[room] = call = Call(room, self, hears)
        return call

    async def do(self, what: str, call: str, **about: Any) -> Any:
        """Have something done; its value. Raises CallError."""
        number = next(self._numbers)
        self._asked[number] = answer = asyncio.get_running_loop().create_future()
        line = json.dumps({"id": number, "do": what, "call": call} | about) + "\n"
        assert self.program.process.stdin is not None
        self.program.process.stdin.write(line.encode())
        return await answer

    def speech(self, words: str) -> Path:
        """A file with the words as speech."""
        name = "".join(letter for letter in words.lower() if letter.isalnum())[:60]
        file = self._folder / f"speech-{name}.pcm"
        if not file.exists():
            file.write_bytes(speech_of(words))
        return file

    async def _read(self) -> None:
        out = self.program.process.stdout
        assert out is not None
        while line := await out.readline():
            self._take(json.loads(line))
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(CallError("the callers' process has ended"))

    def _take(self, said: dict[str, Any]) -> None:
        if "re" in said:
            answer = self._asked.pop(said["re"])
            if "error" in said:
                answer.set_exception(CallError(said["error"]))
            else:
                answer.set_result(said["value"])
        elif "call" in said:
            self._calls[said.pop("call")].happened(Event(said.pop("event"), said.pop("at"), said))
        else:
            self._ready.set()


class Call:
    """One caller in one room. `events` holds all that happened, in order."""

    def __init__(self, room: str, callers: Callers, hears: Hears) -> None:
        self.room = room
        self.events: list[Event] = []
        self.identity = ""
        self.joined = False
        self._hears = hears
        self._callers = callers
        self._happened = asyncio.Event()

    def happened(self, event: Event) -> None:
        """Take one more event."""
        self.events.append(event)
        self._happened.set()
        self._happened = asyncio.Event()

    def of(self, kind: str, since: int = 0, **fields: Any) -> list[Event]:
        """The events of a kind with these fields, from number `since` on."""
        return [
            event
            for event in self.events[since:]
            if event.kind == kind and all(event.fields.get(name) == value for name, value in fields.items())
        ]

    async def wait(
        self,
        kind: str,
        count: int = 1,
        *,
        since: int = 0,
        seconds: float = WAIT_SECONDS,
        where: Callable[[Event], bool] = lambda event: True,
        **fields: Any,
    ) -> Event:
        """The event, or the count-th of them, once it has happened. Raises CallError."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    happened = self._happened
                    found = [event for event in self.of(kind, since, **fields) if where(event)]
                    if len(found) >= count:
                        return found[count - 1]
                    await happened.wait()
        except TimeoutError:
            seen = "\n".join(f"  {event.kind} {dict(event.fields)}" for event in self.events[-20:])
            raise CallError(
                f"{kind} {fields} did not happen {count} times in {seconds:g} s:\n{seen}"
            ) from None

    async def agent(self, *states: str, since: int = 0, seconds: float = WAIT_SECONDS) -> Event:
        """Wait until the agent's state is one of these, such as listening."""
        return await self.wait(
            "agent_state", since=since, seconds=seconds, where=lambda event: event["state"] in states
        )

    async def speak(self, words: str) -> tuple[float, float]:
        """Say it; when that began and ended."""
        await self._hears(words)
        began, ended = await self._callers.do("speak", self.room, pcm=str(self._callers.speech(words)))
        return began, ended

    async def silence(self, *, until: float) -> None:
        """Say nothing until that time.monotonic()."""
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    def speaking(self, words: str) -> asyncio.Task[tuple[float, float]]:
        """Begin to say it, as `speak` does."""
        return asyncio.create_task(self.speak(words))

    async def reply(self, words: str, *, since: int, spoken_at: float) -> Reply:
        """The agent's reply to words that were spoken, when it has been heard to its end."""
        seen = await self.wait("transcript", since=since, speaker="caller", final=True)
        heard = await self.wait("speech_heard", since=since, seconds=WAIT_SECONDS)
        said = await self.wait("transcript", since=since, speaker="agent", final=True)
        about = {name: heard[name] for name in Heard.__dataclass_fields__}
        return Reply(
            words=seen["text"],
            text=said["text"],
            heard=Heard(**about | {"pitches": tuple(about["pitches"])}),
            concealed_samples=heard["concealed_samples"],
            lost_packets=heard["lost_packets"],
            spoken_at=spoken_at,
        )

    async def turn(self, words: str) -> Reply:
        """Say the words and listen to the whole reply."""
        since = len(self.events)
        _, spoken_at = await self.speak(words)
        return await self.reply(words, since=since, spoken_at=spoken_at)

    async def ask(self, to: str, method: str, payload: str) -> str:
        """Call a participant's RPC method. Raises CallError."""
        return await self._callers.do("ask", self.room, to=to, method=method, payload=payload)

    async def write(self, text: str, topic: str) -> None:
        """Send a text stream to all."""
        await self._callers.do("write", self.room, text=text, topic=topic)

    async def answer_rpcs(self, *, delay: float = 0.0, error: str = "") -> None:
        """How the agent's RPCs are answered from now on."""
        await self._callers.do("answer_rpcs", self.room, delay=delay, error=error)

    async def join(self, token: str, methods: list[str], topics: list[str]) -> None:
        """Enter the room. Raises CallError."""
        about = {"url": LIVEKIT_URL, "token": token, "methods": methods, "topics": topics}
        self.identity = await self._callers.do("join", self.room, **about)
        self.joined = True

    async def hang_up(self) -> None:
        """Leave the room."""
        self.joined = False
        await self._callers.do("leave", self.room)

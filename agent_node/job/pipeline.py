"""What makes the replies of a session: one config, built."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import structlog
from livekit.agents.llm import Tool, Toolset

from agent_node.job.targets import Target
from agent_node.job.tools import ToolSet
from agent_node.providers.models import LLM, REALTIME, STT, TTS, VAD
from voxplane.schema import CompiledSchema


class Closable(Protocol):
    """What holds connections."""

    async def aclose(self) -> None:
        """Close them."""
        ...


_Model = TypeVar("_Model", bound=Closable)

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Closer:
    """Closes models in the background, and knows how many are open."""

    def __init__(self) -> None:
        self.open = 0
        self._closing: set[asyncio.Task[None]] = set()

    def close(self, model: Closable) -> None:
        """Begin to close a model."""
        task = asyncio.create_task(self._close(model))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Wait for all that is being closed."""
        while self._closing:
            await asyncio.wait(set(self._closing))

    async def _close(self, model: Closable) -> None:
        try:
            await model.aclose()
        except Exception as error:
            _log.warning("a model did not close", model=type(model).__name__, error=type(error).__name__)
        finally:
            self.open -= 1


class SharedModel(Generic[_Model]):
    """A model that pipelines hand on to one another; the last one closes it."""

    def __init__(self, model: _Model, closer: Closer) -> None:
        self.model: _Model = model
        self._closer = closer
        self._holders = 0
        closer.open += 1

    def hold(self) -> SharedModel[_Model]:
        """One more pipeline has it."""
        self._holders += 1
        return self

    def release(self) -> None:
        """One pipeline less has it."""
        self._holders -= 1
        if self._holders == 0:
            self._closer.close(self.model)


@dataclass(frozen=True, slots=True)
class Words:
    """The parts of a pipeline that are computed, not connected.

    schema: None if replies are plain text.
    structured: whether the model is given the schema by its own means; else
        the instructions hold it.
    greeting, greeting_instructions, goodbye: of the session; empty means none.
    announcements: what is said before a transfer, by agent.
    """

    instructions: str
    schema: CompiledSchema | None = None
    structured: bool = True
    greeting: str = ""
    greeting_instructions: str = ""
    goodbye: str = ""
    announcements: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True, eq=False)
class Pipeline:
    """One config, built. `target` changes when the same content goes on under
    another bundle. It has `llm` or `realtime`. `close` gives back what it shares."""

    target: Target
    words: Words
    llm: SharedModel[LLM] | None
    stt: SharedModel[STT] | None = None
    tts: SharedModel[TTS] | None = None
    vad: VAD | None = None
    realtime: SharedModel[REALTIME] | None = None
    called: SharedModel[ToolSet] | None = None
    more_tools: tuple[Tool, ...] = ()
    _users: int = 0
    _drained: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    @property
    def brain(self) -> LLM | REALTIME:
        """The model that makes the replies."""
        held = self.realtime or self.llm
        assert held is not None
        return held.model

    @property
    def tools(self) -> list[Tool | Toolset]:
        """What the model may call."""
        return [*(self.called.model.tools if self.called else ()), *self.more_tools]

    @contextmanager
    def use(self) -> Generator[Pipeline]:
        """While a reply is made by it; its models stay open."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            self._tell_if_drained()

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Call back once nothing uses it, perhaps at once."""
        self._drained.append(callback)
        self._tell_if_drained()

    def close(self) -> None:
        """Give back what it shares, in the background."""
        shared: tuple[SharedModel[Any] | None, ...]
        shared = (self.llm, self.stt, self.tts, self.realtime, self.called)
        for model in shared:
            if model is not None:
                model.release()

    def _tell_if_drained(self) -> None:
        if self._users == 0:
            callbacks, self._drained = self._drained, []
            for callback in callbacks:
                callback()

"""What a LiveKit session tells, as events of its turns.

A speech and all that is done for it run in tasks that are begun just after
`speech_created`, so a context variable that is set there says for which turn
something happens, also while two are in hand.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import structlog
from livekit import rtc
from livekit.agents import (
    AgentSession,
    AgentStateChangedEvent,
    APIStatusError,
    ConversationItemAddedEvent,
    ErrorEvent,
    MetricsCollectedEvent,
    SpeechCreatedEvent,
    ToolExecutionUpdatedEvent,
)
from livekit.agents.llm import ChatMessage, LLMError, RealtimeModelError
from livekit.agents.metrics import LLMMetrics, RealtimeModelMetrics, STTMetrics
from livekit.agents.stt import STTError
from livekit.agents.tts import TTSError
from livekit.agents.voice import SpeechHandle, ToolCallEnded, ToolCallStarted
from livekit.agents.voice.io import AudioOutput, PlaybackFinishedEvent

from agent_node.job.reply_events import ReplyBegan, ReplyDone, ReplyEvent, ReplyFailed
from agent_node.job.turns import (
    Answers,
    Audio,
    Began,
    Ended,
    FirstHeard,
    FirstToken,
    MadeBy,
    Problem,
    Spoke,
    Tokens,
    ToolCalled,
    TurnBook,
    TurnEvent,
)
from voxplane.clock import Clock
from voxplane.v1 import session_pb2

TOOLS_RUNNING_MAX = 64
STT, LLM, TTS, REALTIME, TOOL, SESSION = "stt", "llm", "tts", "realtime", "tool", "session"

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _InTurn:
    listener: TurnListener
    key: str
    number: int


_in_turn: ContextVar[_InTurn | None] = ContextVar("voxplane_turn", default=None)


class TurnListener:
    """Hands on to a book what one session tells. See `listen`."""

    def __init__(
        self,
        session: AgentSession[Any],
        book: TurnBook,
        clock: Clock,
        problem: Callable[[str, str], None] | None = None,
    ) -> None:
        self._session = session
        self._book = book
        self._clock = clock
        self._on_problem = problem
        self._tools: OrderedDict[str, str] = OrderedDict()
        self._untold: dict[str, str] = {}
        self._output: AudioOutput | None = None
        self._handlers: dict[Any, Callable[[Any], None]] = {
            "speech_created": self._on_speech,
            "agent_state_changed": self._on_agent_state,
            "conversation_item_added": self._on_item,
            "tool_execution_updated": self._on_tool,
            "metrics_collected": self._on_metrics,
            "error": self._on_error,
        }
        for event, handler in self._handlers.items():
            # The session's own `on` warns of metrics_collected. Nothing else tells
            # of which turn tokens are, and of a realtime model's first token.
            rtc.EventEmitter[Any].on(session, event, handler)  # pyright: ignore[reportUnknownMemberType]

    @property
    def turn(self) -> int:
        """Number of the turn for which the caller's task works; of the newest
        one, if it works for none."""
        here = self._here()
        return here.number if here is not None else self._book.turn

    def reply(self, event: ReplyEvent) -> None:
        """Something happened in a reply; to be called where it did."""
        match event:
            case ReplyBegan(target):
                self._book.take(MadeBy(self._key(), target))
            case ReplyFailed(_, error):
                self._untold.pop(self._key(), None)
                self.problem(LLM, error.message)
            case ReplyDone(_, _, status) if status is not None:
                self.problem(LLM, status.message)
            case _:
                pass

    def problem(self, source: str, message: str) -> None:
        """Something went wrong; the message never holds what was said."""
        self._book.take(Problem(self._key(), self._clock.monotonic(), source, message))

    def close(self) -> None:
        """The session is over: turns that are open end."""
        for event, handler in self._handlers.items():
            self._session.off(event, handler)  # pyright: ignore[reportUnknownMemberType]
        self._hear(None)
        self._book.close()

    def _here(self) -> _InTurn | None:
        here = _in_turn.get()
        return here if here is not None and here.listener is self else None

    def _key(self) -> str:
        here = self._here()
        return here.key if here is not None else ""

    def _take(self, make: Callable[[str], TurnEvent]) -> None:
        """An event of the turn for which this task works."""
        if key := self._key():
            self._book.take(make(key))

    def _on_speech(self, event: SpeechCreatedEvent) -> None:
        handle = event.speech_handle
        self._hear(self._session.output.audio)
        self._book.take(Began(handle.id, self._clock.monotonic()))
        _in_turn.set(_InTurn(self, handle.id, self._book.number(handle.id)))
        handle.add_done_callback(self._on_speech_done)

    def _on_speech_done(self, handle: SpeechHandle) -> None:
        if (message := self._untold.pop(handle.id, None)) is not None:
            self._tell(handle.id, LLM, message)
        self._book.take(Ended(handle.id, interrupted_by_caller(handle)))

    def _on_agent_state(self, event: AgentStateChangedEvent) -> None:
        if event.new_state == "speaking":
            now = self._clock.monotonic()
            self._take(lambda key: FirstHeard(key, now))

    def _on_item(self, event: ConversationItemAddedEvent) -> None:
        item = event.item
        if not isinstance(item, ChatMessage):
            return
        said = item.metrics
        if item.role == "user":
            self._take(
                lambda key: Answers(key, said.get("transcription_delay"), said.get("end_of_turn_delay"))
            )
        elif item.role == "assistant":
            aloud = self._session.output.audio is not None and self._session.output.audio_enabled
            spoken = len(item.text_content or "") if aloud else 0
            self._take(lambda key: Spoke(key, said.get("tts_node_ttfb"), said.get("e2e_latency"), spoken))

    def _on_tool(self, event: ToolExecutionUpdatedEvent) -> None:
        match event.update:
            case ToolCallStarted(function_call=call):
                self._tools[call.call_id] = call.name
                if len(self._tools) > TOOLS_RUNNING_MAX:
                    self._tools.popitem(last=False)
                self._take(lambda key: ToolCalled(key, call.name))
            case ToolCallEnded(call_id=call_id, status=status):
                name = self._tools.pop(call_id, "a tool")
                if status == "error":
                    self._went_wrong(TOOL, f"{name} failed")
            case _:
                pass

    def _on_metrics(self, event: MetricsCollectedEvent) -> None:
        match event.metrics:
            case LLMMetrics() as made:
                key = made.speech_id or self._key()
                if made.ttft >= 0:
                    self._book.take(FirstToken(key, made.ttft))
                self._book.take(Tokens(key, made.prompt_tokens, made.completion_tokens))
            case RealtimeModelMetrics() as made:
                # told by the connection, which works for no turn
                key = self._key() or self._book.newest
                if made.ttft >= 0:
                    self._book.take(FirstToken(key, made.ttft))
                self._book.take(Tokens(key, made.input_tokens, made.output_tokens))
            case STTMetrics(audio_duration=heard):
                self._book.take(Audio(heard=heard))
            case _:
                pass

    def _on_error(self, event: ErrorEvent) -> None:
        error = event.error
        if getattr(error, "recoverable", False):
            self.problem(source_of(error), described(error))  # it is tried again: nobody has missed anything
        elif isinstance(error, LLMError):
            # comes as ReplyFailed too, unless the session closes for it
            self._untold[self._key()] = described(error)
        else:
            self._went_wrong(source_of(error), described(error))

    def _went_wrong(self, source: str, message: str) -> None:
        self._tell(self._key(), source, message)

    def _tell(self, key: str, source: str, message: str) -> None:
        self._book.take(Problem(key, self._clock.monotonic(), source, message))
        if self._on_problem is not None:
            self._on_problem(source, message)

    def _hear(self, output: AudioOutput | None) -> None:
        """Listen to what the session speaks through, which may change."""
        if output is self._output:
            return
        if self._output is not None:
            self._output.off("playback_finished", self._on_played)  # pyright: ignore[reportUnknownMemberType]
        if output is not None:
            output.on("playback_finished", self._on_played)  # pyright: ignore[reportUnknownMemberType]
        self._output = output

    def _on_played(self, event: PlaybackFinishedEvent) -> None:
        self._book.take(Audio(spoken=event.playback_position))


def listen(
    session: AgentSession[Any],
    book: TurnBook,
    clock: Clock,
    *,
    problem: Callable[[str, str], None] | None = None,
) -> TurnListener:
    """Hand on what a session tells to a book, from now on.

    Call it before the session's first speech, at best before its start.
    `problem` gets source and message of what goes wrong at the session's
    stages, but for the model's replies, of which ReplyEvents tell. `close` the
    listener after the session.
    """
    return TurnListener(session, book, clock, problem)


def log_turn(turn: session_pb2.SessionTurn) -> None:
    """One line for a turn that has ended; nothing of what was said."""
    line: dict[str, Any] = {
        "turn": turn.turn,
        "agent": turn.agent_id,
        "version": turn.version,
        "revision": turn.revision,
    }
    for name in ("transcription_delay", "end_of_turn_delay", "first_token", "first_speech", "response"):
        if turn.HasField(name):
            line[f"{name}_ms"] = round(getattr(turn, name).ToNanoseconds() / 1e6)
    line |= {"input_tokens": turn.input_tokens, "output_tokens": turn.output_tokens}
    if turn.interrupted:
        line["interrupted"] = True
    if turn.tools:
        line["tools"] = list(turn.tools)
    if turn.errors:
        line["errors"] = [error.source for error in turn.errors]
    _log.info("turn ended", **line)


def interrupted_by_caller(handle: SpeechHandle) -> bool:
    """Whether the caller broke a speech off, not the session or a tool."""
    # LiveKit keeps the cause for its traces alone
    return handle.interrupted and getattr(handle, "_interrupt_source", None) != "programmatic"


def source_of(error: object) -> str:
    """Where an error of the session happened."""
    for kind, source in ((LLMError, LLM), (STTError, STT), (TTSError, TTS), (RealtimeModelError, REALTIME)):
        if isinstance(error, kind):
            return source
    return SESSION


def described(error: object) -> str:
    """An error by its type, as its text may hold anything."""
    cause = getattr(error, "error", error)
    said = type(cause).__name__
    if isinstance(cause, APIStatusError) and cause.status_code > 0:
        said = f"{said} ({cause.status_code})"
    return f"{said}; tried again" if getattr(error, "recoverable", False) else said

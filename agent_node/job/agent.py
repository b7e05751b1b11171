"""The agent as LiveKit runs it: every reply is made by one pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import structlog
from google.rpc import code_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]
from livekit.agents import NOT_GIVEN, Agent, AgentSession, ModelSettings, NotGivenOr
from livekit.agents.llm import AgentConfigUpdate, ChatChunk, ChatContext, Tool, Toolset

from agent_node.job.fields_tool import fields_tool
from agent_node.job.pipeline import Pipeline
from agent_node.job.reply_events import (
    ReplyBegan,
    ReplyCut,
    ReplyDone,
    ReplyEvent,
    ReplyFailed,
    ReplyField,
    ReplyFieldPart,
    disobeys,
    not_as_wanted,
    typed_reply,
)
from agent_node.job.structured import FieldDone, FieldPart, ReplyReader, ReplyShape, Said, Spoken
from agent_node.job.targets import Target
from agent_node.job.userdata import SessionData
from agent_node.providers import set_speech_instructions
from voxplane.errors import VoxplaneError
from voxplane.schema import CompiledSchema
from voxplane.v1 import error_reason_pb2 as reason_pb2

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class VoxplaneAgent(Agent):
    """One agent of a session; `switch` puts another pipeline in force.

    `on_reply` is called on the loop with what the replies bring beside speech.
    Without `voice` the session gets neither ears nor a mouth: LiveKit would
    connect them, though there is no audio. It begins with `history`, if there
    is one. With `on_takeover` it takes the place of another agent of the
    session, with the history, and calls it when it has.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        on_reply: Callable[[ReplyEvent], None],
        *,
        voice: bool = True,
        history: ChatContext | None = None,
        on_takeover: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            instructions=pipeline.words.instructions,
            chat_ctx=history,
            tools=_tools(pipeline, lambda: self._pipeline.target, on_reply),
            llm=pipeline.brain,
            stt=pipeline.stt.model if pipeline.stt and voice else None,
            vad=pipeline.vad if voice else None,
            tts=pipeline.tts.model if pipeline.tts and voice else None,
        )
        if history is not None:
            # with its own tools LiveKit leaves out the calls of others
            self._chat_ctx = history.copy()
        self._pipeline = pipeline
        self._on_reply = on_reply
        self._voice = voice
        self._on_takeover = on_takeover

    @property
    def pipeline(self) -> Pipeline:
        """What makes the next reply."""
        return self._pipeline

    async def on_enter(self) -> None:
        """Part of LiveKit's interface: the session has this agent from now on."""
        if self._on_takeover is None:
            return
        # Not before: the last reply of the other one is in it only now.
        history = _session_of(self).history.copy(
            exclude_instructions=True, exclude_handoff=True, exclude_config_update=True
        )
        try:
            await self.update_chat_ctx(history, exclude_invalid_function_calls=False)
        except Exception as error:
            # a realtime model may not answer; who waits for the takeover must not wait for ever
            _log.error("the history was not taken over", error=type(error).__name__)
        self._on_takeover()

    def successor(self, pipeline: Pipeline, on_takeover: Callable[[], None]) -> VoxplaneAgent:
        """The agent that takes this one's place in the session."""
        return type(self)(pipeline, self._on_reply, voice=self._voice, on_takeover=on_takeover)

    def switch(self, pipeline: Pipeline) -> None:
        """Make the next reply by `pipeline`; to be called at a turn boundary.

        Does not wait, so that no reply can begin in the middle of it. Raises
        VoxplaneError(BUILD_FAILED) if LiveKit refuses, and then changes nothing.
        """
        before = self._pipeline
        stt, tts = pipeline.stt, pipeline.tts
        new_stt, new_tts = self._voice and stt is not before.stt, self._voice and tts is not before.tts
        try:
            self.update_options(  # pyright: ignore[reportUnknownMemberType]
                llm=pipeline.brain if pipeline.llm is not before.llm else NOT_GIVEN,
                stt=(stt.model if stt else None) if new_stt else NOT_GIVEN,
                vad=pipeline.vad if self._voice and pipeline.vad is not before.vad else NOT_GIVEN,
                tts=(tts.model if tts else None) if new_tts else NOT_GIVEN,
            )
        except Exception as error:
            raise _refused(f"the session refused the new models ({type(error).__name__})") from error
        self._pipeline = pipeline
        if pipeline.words.instructions != before.words.instructions:
            _run_at_once(self.update_instructions(pipeline.words.instructions))
            self._forget_unused_instructions()
        if pipeline.called is not before.called:
            self._take_tools(pipeline)

    def speak_plainly(self) -> None:
        """Speak as the config says, not as the last reply was to be spoken."""
        if self._pipeline.tts is not None:
            set_speech_instructions(self._pipeline.tts.model, "")

    def _take_tools(self, pipeline: Pipeline) -> None:
        # LiveKit would take the calls of tools that are gone out of the history
        items = list(self._chat_ctx.items)
        _run_at_once(self.update_tools(pipeline.tools))
        self._chat_ctx.items[:] = items

    async def llm_node(
        self, chat_ctx: ChatContext, tools: list[Tool], model_settings: ModelSettings
    ) -> AsyncIterator[ChatChunk | str]:
        """The spoken text of one step of a reply, and its tool calls."""
        session = _session_of(self)
        with self._pipeline.use() as pipeline, _Reply(pipeline, self._on_reply, session.userdata) as reply:
            assert pipeline.llm is not None
            try:
                async with pipeline.llm.model.chat(
                    chat_ctx=chat_ctx,
                    tools=tools,
                    tool_choice=model_settings.tool_choice,
                    conn_options=session.conn_options.llm_conn_options,
                    extra_kwargs=_extra_kwargs(pipeline),
                ) as stream:
                    async for chunk in stream:
                        for part in reply.take(chunk):
                            yield part
            except Exception as error:
                reply.fail(error)
                raise
            for part in reply.finish():
                yield part

    async def tts_node(self, text: Any, model_settings: ModelSettings) -> AsyncIterator[Any]:
        """The speech of one reply."""
        with self._pipeline.use():
            async for frame in Agent.default.tts_node(self, text, model_settings):
                yield frame

    def _forget_unused_instructions(self) -> None:
        """Of updates in a row, of which none made a reply, keep the last."""
        for context in (self._chat_ctx, _session_of(self).history):
            items = context.items
            while len(items) > 1 and all(isinstance(item, AgentConfigUpdate) for item in items[-2:]):
                del items[-2]


def _session_of(agent: Agent) -> AgentSession[SessionData]:
    return agent.session  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


class _Reply:
    """One step of a reply, while it is made by one pipeline. It is cut if its
    block ends before `finish` or `fail`."""

    def __init__(
        self, pipeline: Pipeline, on_reply: Callable[[ReplyEvent], None], session: SessionData
    ) -> None:
        self._pipeline = pipeline
        self._target = pipeline.target  # the bundle may move meanwhile, the content does not
        self._on_reply = on_reply
        self._session = session
        self._over = False
        self._reader = ReplyReader(_shape(pipeline.words.schema)) if pipeline.words.schema else None
        self._instruction_field = self._target.config.tts_config.instruction_field
        self._calls_tools = False
        self._steer("")
        on_reply(ReplyBegan(self._target))

    def __enter__(self) -> _Reply:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._over:
            self._over = True
            self._on_reply(ReplyCut(self._target))

    def fail(self, error: Exception) -> None:
        """The model gave no reply, or broke off."""
        self._over = True
        self._on_reply(ReplyFailed(self._target, _model_failed(error)))

    def take(self, chunk: ChatChunk) -> list[ChatChunk | str]:
        """What to hand on of a chunk."""
        if self._reader is None or chunk.delta is None:
            self._calls_tools = self._calls_tools or bool(chunk.delta and chunk.delta.tool_calls)
            return [chunk]
        parts: list[ChatChunk | str] = []
        if chunk.delta.content:
            parts += self._say(self._reader.feed(chunk.delta.content))
        self._calls_tools = self._calls_tools or bool(chunk.delta.tool_calls)
        delta = chunk.delta.model_copy(update={"content": None})
        return [*parts, chunk.model_copy(update={"delta": delta})]

    def finish(self) -> list[str]:
        """The last of the spoken text."""
        self._over = True
        if self._reader is None:
            self._on_reply(ReplyDone(self._target, {}, None))
            return []
        if self._reader.empty and self._calls_tools:
            return []
        parts = self._say(self._reader.finish())
        hidden = self._pipeline.words.schema.hidden_fields if self._pipeline.words.schema else ()
        shown = {name: value for name, value in self._reader.fields.items() if name not in hidden}
        problem = self._problem(self._reader)
        self._on_reply(ReplyDone(self._target, shown, problem))
        return parts

    def _say(self, said: list[Said]) -> list[str]:
        parts: list[str] = []
        for each in said:
            match each:
                case Spoken(text):
                    parts.append(text)
                case FieldPart(name, text):
                    self._on_reply(ReplyFieldPart(name, text))
                case FieldDone(name, value, hidden):
                    if name == self._instruction_field:
                        self._steer(value if isinstance(value, str) else "")
                    if not hidden:
                        self._on_reply(ReplyField(name, value))
        return parts

    def _steer(self, instructions: str) -> None:
        if self._pipeline.tts is not None and self._instruction_field:
            set_speech_instructions(self._pipeline.tts.model, instructions)

    def _problem(self, reader: ReplyReader) -> status_pb2.Status | None:
        if reader.problem is not None:
            return not_as_wanted(reader.problem)
        if (schema := self._pipeline.words.schema) is not None:
            try:
                self._session.reply = typed_reply(schema, reader.fields)
            except ValueError as error:
                return disobeys(error)
        return None


def _tools(
    pipeline: Pipeline, running: Callable[[], Target], on_reply: Callable[[ReplyEvent], None]
) -> list[Tool | Toolset]:
    if pipeline.realtime is None or pipeline.words.schema is None:
        return pipeline.tools
    return [*pipeline.tools, fields_tool(running, pipeline.words.schema, on_reply)]


def _shape(schema: CompiledSchema) -> ReplyShape:
    return ReplyShape(
        names=tuple(each.field_name for each in schema.fields),
        spoken=tuple(schema.spoken_fields),
        hidden=frozenset(schema.hidden_fields),
        required=frozenset(each.field_name for each in schema.fields if each.required),
        defaults=schema.defaults,
    )


def _extra_kwargs(pipeline: Pipeline) -> NotGivenOr[dict[str, Any]]:
    if pipeline.words.schema is None or not pipeline.words.structured:
        return NOT_GIVEN
    # as response_format= the plugin would refuse a plain dict
    return {"response_format": pipeline.words.schema.response_format}


def _model_failed(error: Exception) -> status_pb2.Status:
    # the text of the error may quote the prompt or the key
    return status_pb2.Status(
        code=code_pb2.UNAVAILABLE, message=f"the language model failed ({type(error).__name__})"
    )


def _refused(said: str) -> VoxplaneError:
    return VoxplaneError(reason_pb2.ERROR_REASON_BUILD_FAILED, said)


def _run_at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that does not wait. LiveKit's update_instructions is one
    as long as the model is no realtime model."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError("LiveKit waits where it did not")

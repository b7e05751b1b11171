"""Builds what a config describes, beside what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TypeVar

from livekit.agents.llm import Tool

from agent_node.job.fields_tool import INSTRUCTION as FIELDS_INSTRUCTION
from agent_node.job.pipeline import Closable, Closer, Pipeline, SharedModel, Words
from agent_node.job.plan import EVERYTHING, Part, Plan
from agent_node.job.targets import Bundle, Target
from agent_node.job.tools import OnCall, ToolSet, build_tools
from agent_node.providers import (
    Availability,
    BuildContext,
    build_llm,
    build_realtime,
    build_stt,
    build_tts,
    build_vad,
    new_context,
    on_availability,
)
from agent_node.providers.schema_prompt import schema_instructions
from voxplane.errors import Violation, VoxplaneError
from voxplane.names import agent_name
from voxplane.node.v1.relay_service_pb2 import CallerContext
from voxplane.prompt import render_prompt
from voxplane.schema import compile_schema
from voxplane.session_texts import text_prompt
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.validation import check_config

_Model = TypeVar("_Model", bound=Closable)


class Builder:
    """Builds the pipelines of one session. `aclose` it after the last of them.

    `tools` are functions in Python that the model may call beside the
    config's; `on_call` is told of each call of one of the config's, and
    `on_availability` when a model that has fallbacks fails or is back.
    """

    def __init__(
        self,
        caller: CallerContext,
        context: BuildContext,
        tools: Sequence[Tool] = (),
        on_call: OnCall = lambda call: None,
        on_availability: Callable[[Availability], None] = lambda change: None,
    ) -> None:
        self._caller = caller
        self._context = context
        self._tools = tuple(tools)
        self._on_call = on_call
        self._on_availability = on_availability
        self.closer = Closer()

    async def build(self, target: Target, plan: Plan, running: Pipeline | None) -> Pipeline:
        """The target's pipeline; parts that the plan does not rebuild are taken
        over from `running`.

        Raises VoxplaneError with the paths of the fields in AgentConfig, and
        then leaves nothing open.
        """
        rebuild = plan.rebuild if running is not None else EVERYTHING
        words = None
        if running is not None and not rebuild & {Part.INSTRUCTIONS, Part.SCHEMA}:
            words = running.words
        words = await asyncio.to_thread(_checked_words, target.config, self._caller, words)
        if running is not None and words.announcements != running.words.announcements:
            rebuild = rebuild | {Part.TOOLS}
        pipeline = Pipeline(target, words, None, more_tools=self._tools)
        try:
            await self._furnish(pipeline, rebuild, running)
        except BaseException:
            pipeline.close()
            raise
        return pipeline

    async def aclose(self) -> None:
        """Wait until all closed models are, then close what they shared."""
        await self.closer.aclose()
        await self._context.aclose()

    async def _furnish(self, pipeline: Pipeline, rebuild: Set[Part], running: Pipeline | None) -> None:
        """Give the pipeline its models and tools; those that are not to be
        rebuilt are those of `running`."""
        config, context = pipeline.target.config, self._context

        def held(
            part: Part, its: SharedModel[_Model] | None, make: Callable[[], _Model]
        ) -> SharedModel[_Model]:
            if its is not None and part not in rebuild:
                return its.hold()
            made = make()
            on_availability(made, self._on_availability)
            return SharedModel[_Model](made, self.closer).hold()

        before = running or Pipeline(pipeline.target, pipeline.words, None)
        if config.realtime_config.enabled:
            pipeline.realtime = held(
                Part.REALTIME, before.realtime, lambda: build_realtime(config.realtime_config, context)
            )
        else:
            pipeline.llm = held(Part.LLM, before.llm, lambda: build_llm(config.llm_config, context))
        if config.HasField("stt_config"):
            if _finds_speech(config):
                kept = before.vad if Part.VAD not in rebuild else None
                pipeline.vad = kept or build_vad(config.vad_config, context)
            vad = pipeline.vad
            pipeline.stt = held(Part.STT, before.stt, lambda: build_stt(config.stt_config, context, vad=vad))
            if vad is None and not pipeline.stt.model.capabilities.streaming:
                raise _failed("vad_config.enabled", "this speech to text does not stream, and needs a VAD")
        if config.HasField("tts_config"):
            pipeline.tts = held(Part.TTS, before.tts, lambda: build_tts(config.tts_config, context))
        if not _has_tools(config):
            return
        if before.called is not None and Part.TOOLS not in rebuild:
            pipeline.called = before.called.hold()
        else:
            made = await build_tools(
                config, context, announcements=pipeline.words.announcements, on_call=self._on_call
            )
            pipeline.called = SharedModel[ToolSet](made, self.closer).hold()


def check(config: AgentConfig, caller: CallerContext | None = None) -> None:
    """Build everything that the config describes, and close it again.

    Without a caller the prompt is rendered with the defaults of its variables.
    Blocks: call it off the loop. Raises VoxplaneError with the paths of the
    fields in AgentConfig.
    """
    asyncio.run(_check(config, caller or CallerContext(tenant_id="check", agent_id="check")))


async def _check(config: AgentConfig, caller: CallerContext) -> None:
    bundle = Bundle(agent_name(caller.tenant_id, caller.agent_id), "", 0)
    builder = Builder(caller, new_context())
    try:
        plan = Plan(effects={}, rebuild=EVERYTHING)
        pipeline = await builder.build(Target(bundle, 0, "", config), plan, None)
        pipeline.close()
    finally:
        await builder.aclose()


def _checked_words(config: AgentConfig, caller: CallerContext, words: Words | None) -> Words:
    check_config(config)
    _check_models(config)
    return words or _words(config, caller)


def _words(config: AgentConfig, caller: CallerContext) -> Words:
    def rendered(text: str) -> str:
        return render_prompt(text_prompt(config, text), caller.variables, _builtins(caller)).text

    session, schema = config.session_config, None
    structured = _is_structured(config)
    instructions = rendered(config.prompt_config.instructions)
    if config.schema_config.fields:
        schema = compile_schema(config.schema_config, first=config.tts_config.instruction_field)
        if config.realtime_config.enabled:
            instructions = f"{instructions}\n\n{FIELDS_INSTRUCTION}".lstrip()
        elif not structured:
            instructions = f"{instructions}\n\n{schema_instructions(schema.json_schema)}".lstrip()
    return Words(
        instructions,
        schema,
        structured,
        greeting=rendered(session.greeting),
        greeting_instructions=rendered(session.greeting_instructions),
        goodbye=rendered(session.goodbye),
        announcements={
            each.agent_id: rendered(each.announcement) for each in session.transfers if each.announcement
        },
    )


def _is_structured(config: AgentConfig) -> bool:
    """Whether the model takes a schema by its own means; fallbacks that do not
    are given it otherwise."""
    llm = config.llm_config
    return llm.supports_structured_output if llm.HasField("supports_structured_output") else True


def _finds_speech(config: AgentConfig) -> bool:
    return config.vad_config.enabled if config.vad_config.HasField("enabled") else True


def _has_tools(config: AgentConfig) -> bool:
    session = config.session_config
    return bool(config.tools or config.mcp_servers or session.can_end_session or session.transfers)


def _check_models(config: AgentConfig) -> None:
    realtime = config.realtime_config.enabled
    if not realtime and not config.llm_config.provider:
        raise _failed("llm_config.provider", "a session needs a language model")
    there = {
        "realtime_llm": realtime,
        "stt": config.HasField("stt_config"),
        "vad": config.HasField("stt_config") and _finds_speech(config),
    }
    wanted = config.turn_config.turn_detection
    if not there.get(wanted, True):
        raise _failed("turn_config.turn_detection", f"{wanted} is not there to find the end of a turn")


def _failed(path: str, said: str) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_BUILD_FAILED, f"{path}: {said}", violations=[Violation(path, said)]
    )


def _builtins(caller: CallerContext) -> Mapping[str, str]:
    return {
        "tenant_id": caller.tenant_id,
        "agent_id": caller.agent_id,
        "session_id": caller.session_id,
        "user_id": caller.user_id,
    }

"""Builds what a config describes, beside what runs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from agent_node.job.pipeline import Closer, Pipeline, SharedModel, Words
from agent_node.job.plan import EVERYTHING, Part, Plan
from agent_node.job.targets import Bundle, Target
from agent_node.providers import BuildContext, build_llm, build_stt, build_tts, new_context
from agent_node.providers.models import LLM, STT, TTS
from voxplane.errors import Violation, VoxplaneError
from voxplane.names import agent_name
from voxplane.node.v1.relay_service_pb2 import CallerContext
from voxplane.prompt import render_prompt
from voxplane.schema import compile_schema
from voxplane.session_texts import text_prompt
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.validation import check_config

_SCHEMA_PROMPT = (
    "Answer with one JSON object and nothing else, without a code fence. "
    "It must obey this JSON Schema, with its properties in this order:\n"
)


class Builder:
    """Builds the pipelines of one session. `aclose` it after the last of them."""

    def __init__(self, caller: CallerContext, context: BuildContext) -> None:
        self._caller = caller
        self._context = context
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
        held: list[SharedModel[LLM] | SharedModel[STT] | SharedModel[TTS]] = []
        try:
            llm = running.llm if running and Part.LLM not in rebuild else self._llm(target.config)
            held.append(llm.hold())
            stt = running.stt if running and Part.STT not in rebuild else self._stt(target.config)
            if stt is not None:
                held.append(stt.hold())
            tts = running.tts if running and Part.TTS not in rebuild else self._tts(target.config)
            if tts is not None:
                held.append(tts.hold())
        except BaseException:
            for model in held:
                model.release()
            raise
        return Pipeline(target, words, llm, stt, tts)

    async def aclose(self) -> None:
        """Wait until all closed models are, then close what they shared."""
        await self.closer.aclose()
        await self._context.aclose()

    def _llm(self, config: AgentConfig) -> SharedModel[LLM]:
        return SharedModel[LLM](build_llm(config.llm_config, self._context), self.closer)

    def _stt(self, config: AgentConfig) -> SharedModel[STT] | None:
        if not config.HasField("stt_config"):
            return None
        return SharedModel[STT](build_stt(config.stt_config, self._context), self.closer)

    def _tts(self, config: AgentConfig) -> SharedModel[TTS] | None:
        if not config.HasField("tts_config"):
            return None
        return SharedModel[TTS](build_tts(config.tts_config, self._context), self.closer)


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
        if not structured:
            shown = json.dumps(schema.json_schema, ensure_ascii=False)
            instructions = f"{instructions}\n\n{_SCHEMA_PROMPT}{shown}".lstrip()
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
    """Whether all models that may make a reply take a schema by their own means."""
    return all(
        model.supports_structured_output if model.HasField("supports_structured_output") else True
        for model in (config.llm_config, *config.llm_config.fallbacks)
    )


def _check_models(config: AgentConfig) -> None:
    if config.realtime_config.enabled:
        raise _failed("realtime_config.enabled", "this node has no realtime models")
    if not config.llm_config.provider:
        raise _failed("llm_config.provider", "a session needs a language model")


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

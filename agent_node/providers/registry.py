"""Which provider names the node knows, and who builds their models."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from typing import TypeVar

from agent_node.providers import deepgram, offline, openai, silero
from agent_node.providers.context import BuildContext
from agent_node.providers.models import LLM, REALTIME, STT, TTS, VAD
from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import LlmConfig, RealtimeConfig, SttConfig, TtsConfig, VadConfig

_LLM: Mapping[str, Callable[[LlmConfig, BuildContext], LLM]] = {
    "offline": offline.build_llm,
    "openai": openai.build_llm,
}
_STT: Mapping[str, Callable[[SttConfig, BuildContext], STT]] = {
    "deepgram": deepgram.build_stt,
}
_TTS: Mapping[str, Callable[[TtsConfig, BuildContext], TTS]] = {
    "deepgram": deepgram.build_tts,
    "offline": offline.build_tts,
    "openai": openai.build_tts,
}
_VAD: Mapping[str, Callable[[VadConfig, BuildContext, str], VAD]] = {"silero": silero.build_vad}
_REALTIME: Mapping[str, Callable[[RealtimeConfig, BuildContext, str], REALTIME]] = {
    "openai": openai.build_realtime
}
_BLOCKS: Mapping[str, Mapping[str, object]] = {
    "llm_config": _LLM,
    "stt_config": _STT,
    "tts_config": _TTS,
    "vad_config": _VAD,
    "realtime_config": _REALTIME,
}


_Config = TypeVar("_Config", LlmConfig, SttConfig, TtsConfig)
_Model = TypeVar("_Model", LLM, STT, TTS)


def build_llm(config: LlmConfig, context: BuildContext) -> LLM:
    """The language model that `llm_config` describes; the caller closes it.

    Cheap, no network. Raises VoxplaneError: PROVIDER_UNKNOWN,
    SECRET_UNAVAILABLE or BUILD_FAILED, with paths such as `llm_config.provider`.
    """
    return _build("llm_config", _LLM, config, context)


def build_stt(config: SttConfig, context: BuildContext) -> STT:
    """The speech-to-text model that `stt_config` describes; as build_llm.

    Needs a running loop.
    """
    return _build("stt_config", _STT, config, context)


def build_tts(config: TtsConfig, context: BuildContext) -> TTS:
    """The text-to-speech model that `tts_config` describes; as build_llm.

    Needs a running loop.
    """
    return _build("tts_config", _TTS, config, context)


def build_vad(config: VadConfig, context: BuildContext) -> VAD:
    """What finds speech, as `vad_config` describes it; as build_llm."""
    builder = _VAD.get(config.provider or "silero")
    if builder is None:
        raise _unknown("vad_config", config.provider)
    return builder(config, context, "vad_config")


def build_realtime(config: RealtimeConfig, context: BuildContext) -> REALTIME:
    """The realtime model that `realtime_config` describes; as build_llm.

    Needs a running loop.
    """
    builder = _REALTIME.get(config.provider)
    if builder is None:
        raise _unknown("realtime_config", config.provider)
    return builder(config, context, "realtime_config")


def known_providers(block: str) -> tuple[str, ...]:
    """Names that may stand in a block's `provider`, by block such as `llm_config`."""
    return tuple(sorted(_BLOCKS[block]))


def _build(
    block: str,
    table: Mapping[str, Callable[[_Config, BuildContext], _Model]],
    config: _Config,
    context: BuildContext,
) -> _Model:
    builder = table.get(config.provider)
    if builder is None:
        raise _unknown(block, config.provider)
    try:
        return builder(config, context)
    except VoxplaneError:
        raise
    except Exception as error:
        # the text of a foreign error may hold what it was given: its type must do
        said = f"{config.provider} refused the settings ({type(error).__name__})"
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_BUILD_FAILED, f"{block}: {said}", violations=[Violation(block, said)]
        ) from error


def _unknown(block: str, provider: str) -> VoxplaneError:
    kind = block.removesuffix("_config").upper()
    said = f"the node has no {kind} provider {provider!r}; it has {', '.join(known_providers(block))}"
    if (plugin := f"livekit-plugins-{provider}") in _livekit_plugins():
        said += (
            f". LiveKit has a plugin: pip install {plugin}=={metadata.version('livekit-agents')}, "
            "then add it to agent_node/providers/registry.py"
        )
    path = f"{block}.provider"
    return VoxplaneError(
        reason_pb2.ERROR_REASON_PROVIDER_UNKNOWN, f"{path}: {said}", violations=[Violation(path, said)]
    )


@cache
def _livekit_plugins() -> frozenset[str]:
    """Names of the plugins that livekit-agents offers as extras, installed or not."""
    wanted = metadata.requires("livekit-agents") or []
    return frozenset(re.split(r"[^\w-]", each, maxsplit=1)[0] for each in wanted)

"""Which provider names the node knows, and who builds their models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent_node.providers import deepgram, offline, openai, plugin_models, plugins, silero
from agent_node.providers.arguments import parameters_of
from agent_node.providers.context import BuildContext, Place, ssl_context
from agent_node.providers.fallback import FallbackLLM, FallbackSTT, FallbackTTS
from agent_node.providers.models import LLM, REALTIME, STT, TTS, VAD
from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import LlmConfig, RealtimeConfig, SttConfig, TtsConfig, VadConfig

VAD_PROVIDER = "silero"

_BUILT_IN: Mapping[str, Mapping[str, Callable[[Any, Place], Any]]] = {
    "llm_config": {"offline": offline.build_llm, "openai": openai.build_llm},
    "realtime_config": {"openai": openai.build_realtime},
    "stt_config": {"deepgram": deepgram.build_stt, "openai": openai.build_stt},
    "tts_config": {"deepgram": deepgram.build_tts, "offline": offline.build_tts, "openai": openai.build_tts},
    "vad_config": {"silero": silero.build_vad},
}
_OF_PLUGINS: Mapping[str, Callable[[Any, Any, Place], Any]] = {
    "llm_config": plugin_models.build_llm,
    "realtime_config": plugin_models.build_realtime,
    "stt_config": plugin_models.build_stt,
    "tts_config": plugin_models.build_tts,
    "vad_config": plugin_models.build_vad,
}


def build_llm(config: LlmConfig, context: BuildContext) -> LLM:
    """The language model that `llm_config` describes, with its fallbacks; the
    caller closes it.

    Cheap, no network. Needs a running loop. Raises VoxplaneError:
    PROVIDER_UNKNOWN, SECRET_UNAVAILABLE or BUILD_FAILED, with paths such as
    `llm_config.fallbacks[0].options.top_p`.
    """
    models: list[LLM] = _build_all("llm_config", config, context)
    return models[0] if len(models) == 1 else FallbackLLM(models)


def build_stt(config: SttConfig, context: BuildContext, *, vad: VAD | None = None) -> STT:
    """The speech-to-text model that `stt_config` describes; as build_llm.

    `vad` finds speech for models that do not by themselves; without it silero
    with its default settings does. A single model that does not stream is left
    as it is: LiveKit's session puts its own VAD before it.
    """
    models: list[STT] = _build_all("stt_config", config, context, vad)
    if len(models) == 1:
        return models[0]
    if vad is None and not all(model.capabilities.streaming for model in models):
        vad = silero.SileroVAD.of_process()
    return FallbackSTT(models, vad)


def build_tts(config: TtsConfig, context: BuildContext) -> TTS:
    """The text-to-speech model that `tts_config` describes; as build_llm."""
    models: list[TTS] = _build_all("tts_config", config, context)
    return models[0] if len(models) == 1 else FallbackTTS(models)


def build_vad(config: VadConfig, context: BuildContext) -> VAD:
    """What finds speech, as `vad_config` describes it; as build_llm. Whether
    it is `enabled` is the caller's business."""
    return _build(config.provider or VAD_PROVIDER, config, Place(context, "vad_config"))


def build_realtime(config: RealtimeConfig, context: BuildContext) -> REALTIME:
    """The realtime model that `realtime_config` describes; as build_llm."""
    return _build(config.provider, config, Place(context, "realtime_config"))


def known_providers(block: str) -> tuple[str, ...]:
    """Names that may stand in a block's `provider`, by block such as `llm_config`:
    those of the node, and the plugins that are installed."""
    return tuple(sorted({*_BUILT_IN[block], *plugins.with_class(block)}))


def warm_providers() -> None:
    """Pay for what is slow the first time, before a call waits for it. Blocks
    for 0.1 s."""
    ssl_context()
    for block in plugins.BLOCKS:
        for name in plugins.with_class(block):
            kind = plugins.find_class(name, block)
            parameters_of(getattr(kind, "load", kind) if block == "vad_config" else kind)  # type: ignore[arg-type]


def _build_all(
    block: str, config: LlmConfig | SttConfig | TtsConfig, context: BuildContext, vad: VAD | None = None
) -> list[Any]:
    """The models of the block and of its fallbacks, in order."""
    chain = (config, *config.fallbacks)
    built: list[Any] = []
    try:
        for i, each in enumerate(chain):
            path = f"{block}.fallbacks[{i - 1}]" if i else block
            built.append(_build(each.provider, each, Place(context, path, i == len(chain) - 1, vad)))
    except BaseException:
        for model in built:
            context.discard(model)
        raise
    return built


def _build(provider: str, config: Any, place: Place) -> Any:
    block = place.path.partition(".")[0]
    builder = _BUILT_IN[block].get(provider)
    kind = None if builder else plugins.find_class(provider, block)
    if builder is None and kind is None:
        raise _unknown(block, provider, f"{place.path}.provider")
    try:
        return builder(config, place) if builder else _OF_PLUGINS[block](kind, config, place)
    except VoxplaneError:
        raise
    except Exception as error:
        # the text of a foreign error may hold what it was given: its type must do
        said = f"{provider} refused the settings ({type(error).__name__})"
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_BUILD_FAILED,
            f"{place.path}: {said}",
            violations=[Violation(place.path, said)],
        ) from error


def _unknown(block: str, provider: str, path: str) -> VoxplaneError:
    kind = block.removesuffix("_config").upper()
    said = f"the node has no {kind} provider {provider!r}; it has {', '.join(known_providers(block))}"
    if (more := plugins.why_not(provider, block)) != "":
        said += f". {more}"
    return VoxplaneError(
        reason_pb2.ERROR_REASON_PROVIDER_UNKNOWN, f"{path}: {said}", violations=[Violation(path, said)]
    )

"""Which provider names the node knows, and who builds their models."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
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
    return _build_chain("llm_config", config, context, FallbackLLM)


def build_stt(config: SttConfig, context: BuildContext, *, vad: VAD | None = None) -> STT:
    """The speech-to-text model that `stt_config` describes; as build_llm.

    `vad` finds speech for models that do not by themselves; without it silero
    with its default settings does. A single model that does not stream is left
    as it is: LiveKit's session puts its own VAD before it.
    """

    def chain(models: list[STT]) -> FallbackSTT:
        streaming = all(model.capabilities.streaming for model in models)
        return FallbackSTT(models, vad if streaming or vad else silero.SileroVAD.of_process())

    return _build_chain("stt_config", config, context, chain, vad)


def build_tts(config: TtsConfig, context: BuildContext) -> TTS:
    """The text-to-speech model that `tts_config` describes; as build_llm."""
    return _build_chain("tts_config", config, context, FallbackTTS)


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


def _build_chain(
    block: str,
    config: LlmConfig | SttConfig | TtsConfig,
    context: BuildContext,
    chain: Callable[[list[Any]], Any],
    vad: VAD | None = None,
) -> Any:
    """The model of the block, or the chain of it and its fallbacks."""
    blocks = (config, *config.fallbacks)
    models: list[Any] = []
    try:
        for i, each in enumerate(blocks):
            path = f"{block}.fallbacks[{i - 1}]" if i else block
            models.append(_build(each.provider, each, Place(context, path, i == len(blocks) - 1, vad)))
        with _told(f"{block}.fallbacks", "these models cannot stand in for one another"):
            return models[0] if len(models) == 1 else chain(models)
    except BaseException:
        for model in models:
            context.discard(model)
        raise


def _build(provider: str, config: Any, place: Place) -> Any:
    block = place.path.partition(".")[0]
    builder = _BUILT_IN[block].get(provider)
    kind = None if builder else plugins.find_class(provider, block)
    if builder is None and kind is None:
        raise _unknown(block, provider, f"{place.path}.provider")
    with _told(place.path, f"{provider} refused the settings"):
        return builder(config, place) if builder else _OF_PLUGINS[block](kind, config, place)


@contextmanager
def _told(path: str, said: str) -> Generator[None]:
    """What libraries raise becomes BUILD_FAILED. Of their errors the type must
    do: the text may hold what they were given."""
    try:
        yield
    except VoxplaneError:
        raise
    except Exception as error:
        said = f"{said} ({type(error).__name__})"
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_BUILD_FAILED, f"{path}: {said}", violations=[Violation(path, said)]
        ) from error


def _unknown(block: str, provider: str, path: str) -> VoxplaneError:
    kind = block.removesuffix("_config").upper()
    said = f"the node has no {kind} provider {provider!r}; it has {', '.join(known_providers(block))}"
    if (more := plugins.why_not(provider, block)) != "":
        said += f". {more}"
    return VoxplaneError(
        reason_pb2.ERROR_REASON_PROVIDER_UNKNOWN, f"{path}: {said}", violations=[Violation(path, said)]
    )

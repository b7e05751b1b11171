"""Offline models from config blocks."""

from __future__ import annotations

from agent_node.providers.arguments import Arguments
from agent_node.providers.context import Place
from agent_node.providers.offline.model import OfflineLLM
from agent_node.providers.offline.speech import OfflineTTS
from voxplane.v1.agent_config_pb2 import LlmConfig, TtsConfig

LLM_MODEL = "echo-1"
SLOW_SUFFIX = "-slow"
TTS_MODEL = "tone-1"
TTS_VOICE = "low"


def build_llm(config: LlmConfig, place: Place) -> OfflineLLM:
    """An OfflineLLM under any model name; one that ends with -slow waits
    `context.offline_pause` before each chunk."""
    _no_options("offline.LLM", config, place)
    model = config.model or LLM_MODEL
    return OfflineLLM(
        model=model,
        temperature=config.temperature if config.HasField("temperature") else None,
        chunks_max=config.max_output_tokens or None,
        pause=place.context.offline_pause if model.endswith(SLOW_SUFFIX) else None,
    )


def build_tts(config: TtsConfig, place: Place) -> OfflineTTS:
    """An OfflineTTS under any model name; each voice has its own tone."""
    _no_options("offline.TTS", config, place)
    return OfflineTTS(
        model=config.model or TTS_MODEL, voice=config.voice or TTS_VOICE, instructions=config.instructions
    )


def _no_options(title: str, config: LlmConfig | TtsConfig, place: Place) -> None:
    given = Arguments(object, title, place.path)
    given.options(config.options, place.context.secrets)
    given.finish()

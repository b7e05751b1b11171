"""Offline models from config blocks."""

from __future__ import annotations

from agent_node.providers.context import BuildContext
from agent_node.providers.offline.model import OfflineLLM
from agent_node.providers.offline.speech import OfflineTTS
from voxplane.v1.agent_config_pb2 import LlmConfig, TtsConfig

LLM_MODEL = "echo-1"
SLOW_SUFFIX = "-slow"
TTS_MODEL = "tone-1"
TTS_VOICE = "low"


def build_llm(config: LlmConfig, context: BuildContext) -> OfflineLLM:
    """An OfflineLLM under any model name; one that ends with -slow waits
    `context.offline_pause` before each chunk."""
    model = config.model or LLM_MODEL
    return OfflineLLM(
        model=model,
        temperature=config.temperature if config.HasField("temperature") else None,
        chunks_max=config.max_output_tokens or None,
        pause=context.offline_pause if model.endswith(SLOW_SUFFIX) else None,
    )


def build_tts(config: TtsConfig, context: BuildContext) -> OfflineTTS:
    """An OfflineTTS under any model name; each voice has its own tone."""
    return OfflineTTS(
        model=config.model or TTS_MODEL, voice=config.voice or TTS_VOICE, instructions=config.instructions
    )

"""A model that needs no key and no network, and says so."""

from __future__ import annotations

from livekit.agents import llm, tts

from agent_node.providers.context import BuildContext
from voxplane.v1.agent_config_pb2 import LlmConfig, TtsConfig


class OfflineTTS(tts.TTS):
    """Placeholder."""

    def set_instructions(self, instructions: str) -> None:
        """Placeholder."""


def build_llm(config: LlmConfig, context: BuildContext) -> llm.LLM:
    """Placeholder."""
    raise NotImplementedError


def build_tts(config: TtsConfig, context: BuildContext) -> OfflineTTS:
    """Placeholder."""
    raise NotImplementedError

"""How a reply is spoken."""

from __future__ import annotations

from agent_node.providers.models import TTS
from agent_node.providers.offline import OfflineTTS
from agent_node.providers.openai import OpenAITTS


def set_speech_instructions(model: TTS, instructions: str) -> bool:
    """Speak what is synthesised from now on as `instructions` say; empty means
    as the config's own say. False if the model takes none."""
    if isinstance(model, OpenAITTS | OfflineTTS):
        model.set_instructions(instructions)
        return True
    return False

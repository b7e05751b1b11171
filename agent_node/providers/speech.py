"""How a reply is spoken."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from agent_node.providers.fallback import FallbackTTS
from agent_node.providers.models import TTS


@runtime_checkable
class TakesInstructions(Protocol):
    """A TTS that can be told how to speak."""

    def set_instructions(self, instructions: str) -> None:
        """How to speak from the next synthesis on; empty means the config's own."""
        ...


def set_speech_instructions(model: TTS, instructions: str) -> bool:
    """Speak what is synthesised from now on as `instructions` say; empty means
    as the config's own say. Of models that stand in for one another all are
    told. False if there is none that takes instructions."""
    models = model.models if isinstance(model, FallbackTTS) else (model,)
    told = [each for each in models if isinstance(each, TakesInstructions)]
    for each in told:
        each.set_instructions(instructions)
    return bool(told)

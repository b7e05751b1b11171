"""Models by provider name: what an AgentConfig's llm, stt, tts, vad and realtime
blocks say, as LiveKit models.

    context = new_context(SecretResolver())
    model = build_llm(config.llm_config, context)
    ...
    await model.aclose()
    await context.aclose()
"""

from agent_node.providers.context import BuildContext, new_context
from agent_node.providers.fallback import Availability, on_availability
from agent_node.providers.plugins import load_plugins
from agent_node.providers.registry import (
    build_llm,
    build_realtime,
    build_stt,
    build_tts,
    build_vad,
    known_providers,
    warm_providers,
)
from agent_node.providers.secrets import SecretResolver
from agent_node.providers.silero import warm_vad
from agent_node.providers.speech import set_speech_instructions

load_plugins()

__all__ = [
    "Availability",
    "BuildContext",
    "SecretResolver",
    "build_llm",
    "build_realtime",
    "build_stt",
    "build_tts",
    "build_vad",
    "known_providers",
    "new_context",
    "on_availability",
    "set_speech_instructions",
    "warm_providers",
    "warm_vad",
]

"""What a change of the config means for a running session: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from voxplane.configdiff import changed_fields
from voxplane.v1.agent_config_pb2 import AgentConfig


class Effect(Enum):
    """When a changed field takes effect in a session that runs."""

    NEXT_TURN = "next_turn"
    NEXT_CALL = "next_call"
    HANDOFF = "handoff"
    """At the next turn, by a new Agent within the session."""


class Part(Enum):
    """What a pipeline is made of. INSTRUCTIONS are all texts, rendered."""

    INSTRUCTIONS = "instructions"
    SCHEMA = "schema"
    LLM = "llm"
    STT = "stt"
    TTS = "tts"
    VAD = "vad"
    REALTIME = "realtime"
    TOOLS = "tools"


EVERYTHING = frozenset(Part)
HEARING = frozenset({Part.STT, Part.VAD})
"""Parts that lose words if they are replaced while the user speaks."""

_NO_PARTS: frozenset[Part] = frozenset()
_TURN_DETECTION = "turn_config.turn_detection"

# by the longest prefix of the field's path: when it takes effect, and what has to be built anew
_RULES: Mapping[str, tuple[Effect, frozenset[Part]]] = {
    "agent_type": (Effect.NEXT_TURN, _NO_PARTS),
    "version": (Effect.NEXT_TURN, _NO_PARTS),
    "prompt_config": (Effect.NEXT_TURN, frozenset({Part.INSTRUCTIONS})),
    "schema_config": (Effect.NEXT_TURN, frozenset({Part.SCHEMA, Part.INSTRUCTIONS})),
    "stt_config": (Effect.NEXT_TURN, frozenset({Part.STT})),
    "llm_config": (Effect.NEXT_TURN, frozenset({Part.LLM})),
    "llm_config.supports_structured_output": (Effect.NEXT_TURN, frozenset({Part.LLM, Part.INSTRUCTIONS})),
    "tts_config": (Effect.NEXT_TURN, frozenset({Part.TTS})),
    "tts_config.instruction_field": (Effect.NEXT_TURN, frozenset({Part.SCHEMA, Part.INSTRUCTIONS})),
    "vad_config": (Effect.NEXT_TURN, frozenset({Part.VAD, Part.STT})),
    "realtime_config": (Effect.HANDOFF, EVERYTHING),
    "session_config": (Effect.NEXT_TURN, frozenset({Part.INSTRUCTIONS})),
    "session_config.can_end_session": (Effect.NEXT_TURN, frozenset({Part.TOOLS})),
    "session_config.transfers": (Effect.NEXT_TURN, frozenset({Part.INSTRUCTIONS, Part.TOOLS})),
    "session_config.greeting": (Effect.NEXT_CALL, frozenset({Part.INSTRUCTIONS})),
    "session_config.greeting_instructions": (Effect.NEXT_CALL, frozenset({Part.INSTRUCTIONS})),
    "tools": (Effect.NEXT_TURN, frozenset({Part.TOOLS})),
    "mcp_servers": (Effect.NEXT_TURN, frozenset({Part.TOOLS})),
    "turn_config": (Effect.NEXT_CALL, _NO_PARTS),
    _TURN_DETECTION: (Effect.NEXT_TURN, _NO_PARTS),
    "turn_config.min_endpointing_delay": (Effect.NEXT_TURN, _NO_PARTS),
    "turn_config.max_endpointing_delay": (Effect.NEXT_TURN, _NO_PARTS),
    "tracing_config": (Effect.NEXT_TURN, _NO_PARTS),
    "frontend_config": (Effect.NEXT_TURN, _NO_PARTS),
    "limits_config": (Effect.NEXT_TURN, _NO_PARTS),
    "limits_config.max_stale": (Effect.NEXT_CALL, _NO_PARTS),
    "limits_config.stale_action": (Effect.NEXT_CALL, _NO_PARTS),
}
# a field that this release does not know cannot change what is running
_UNKNOWN = (Effect.NEXT_CALL, _NO_PARTS)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to come from one config to another.

    `effects` has every changed field by its dotted path; `rebuild` names the
    parts that cannot be taken over from the running pipeline.
    """

    effects: Mapping[str, Effect]
    rebuild: frozenset[Part]

    @property
    def nothing_to_do(self) -> bool:
        """Whether the configs are equal."""
        return not self.effects

    @property
    def handoff(self) -> bool:
        """Whether a new Agent is needed."""
        return Effect.HANDOFF in self.effects.values()

    def fields(self, effect: Effect) -> tuple[str, ...]:
        """The changed fields of one class, in order."""
        return tuple(path for path, its in self.effects.items() if its is effect)


def plan(running: AgentConfig | None, desired: AgentConfig) -> Plan:
    """The plan from `running`, or from nothing, to `desired`.

    A realtime model keeps a connection of its own: what changes in its session,
    also who finds the end of a turn, comes by a new one, that is by a handoff.
    """
    if running is None:
        return Plan(effects={"": Effect.NEXT_TURN}, rebuild=EVERYTHING)
    realtime = desired.realtime_config.enabled
    effects: dict[str, Effect] = {}
    rebuild: set[Part] = set()
    for path in changed_fields(_with_all_blocks(running), _with_all_blocks(desired)):
        effect, parts = _rule(path)
        if path.startswith("realtime_config") and not realtime and not running.realtime_config.enabled:
            effect, parts = _UNKNOWN
        if (parts or path == _TURN_DETECTION) and effect is Effect.NEXT_TURN and realtime:
            effect = Effect.HANDOFF
        effects[path] = effect
        rebuild |= parts
    if realtime and Effect.HANDOFF in effects.values():
        rebuild.add(Part.REALTIME)
    return Plan(effects=effects, rebuild=frozenset(rebuild))


def _with_all_blocks(config: AgentConfig) -> AgentConfig:
    """The config with its missing blocks as empty ones, so that a block that
    comes or goes counts as its fields."""
    whole = AgentConfig()
    whole.CopyFrom(config)
    for block in AgentConfig.DESCRIPTOR.fields:
        if block.message_type is not None and not block.is_repeated:
            getattr(whole, block.name).SetInParent()
    return whole


def _rule(path: str) -> tuple[Effect, frozenset[Part]]:
    words = path.split(".")
    for length in range(len(words), 0, -1):
        rule = _RULES.get(".".join(words[:length]))
        if rule is not None:
            return rule
    return _UNKNOWN

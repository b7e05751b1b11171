"""A hard-coded agent as a config, and what of it a config cannot hold."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from livekit.agents import Agent

from voxplane.v1.agent_config_pb2 import AgentConfig

from .calls import Notes, opening_of, session_of
from .models import KEYS, read_models
from .replies import fields_of, reply_of
from .tools import read_tools

DISPLAY_NAME_CHARS_MAX = 200
_OWN_METHODS = {
    "llm_node": "structured replies are made by the node: the schema is sent with the request",
    "tts_node": "the node speaks the fields with use_in_tts, as instruction_field says",
    "stt_node": "the node transcribes by stt_config",
    "transcription_node": "the transcript is what is spoken",
    "realtime_audio_output_node": "the node plays what realtime_config's model says",
    "on_user_turn_completed": "code that runs at a turn has no place in a config; make it a tool",
    "on_exit": "code that runs at the end has no place in a config; watch the sessions instead",
}
_DURATIONS = (
    ("endpointing", "min_delay", "min_endpointing_delay"),
    ("endpointing", "max_delay", "max_endpointing_delay"),
    ("interruption", "min_duration", "min_interruption_duration"),
    ("interruption", "false_interruption_timeout", "false_interruption_timeout"),
)


@dataclass(slots=True)
class Reading:
    """What was read. `notes` tell what is not in the config, and why."""

    config: AgentConfig
    display_name: str = ""
    notes: Notes = field(default_factory=Notes)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What cannot be read off.

    reply: the class of the replies, where there are several; None for none.
    spoken: the field that is spoken; empty for the first text.
    tools_url: where the tools are served; empty if nowhere.
    """

    reply: str | None = ""
    spoken: str = ""
    tools_url: str = ""


def load(path: Path) -> ModuleType:
    """The module of a file, imported. Raises SystemExit if it cannot be."""
    for variable in (*KEYS.values(), "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
        # plugins want a key when they are made; it is not used
        os.environ.setdefault(variable, "not-used")
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None or not path.is_file():
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))  # it may import its neighbours
    try:
        found.loader.exec_module(module)
    except Exception as error:  # whatever it raises
        raise SystemExit(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def read(module: ModuleType, name: str, wishes: Wishes) -> Reading:
    """The config of an agent's class, or of what a function gives."""
    reading = Reading(AgentConfig())
    config, notes = reading.config, reading.notes
    agent = _made(module, name, config)
    reading.display_name = (inspect.getdoc(type(agent)) or "").partition("\n")[0][:DISPLAY_NAME_CHARS_MAX]
    _read_prompt(agent, config, notes)
    session = session_of(module, notes)
    _read_reply(module, wishes, config, notes)
    read_models(_models(agent, session.keywords), config, notes)
    _steer_speech(config)
    _read_turns({**_turns(session.keywords), **(agent._turn_handling or {})}, config, notes)
    opening = opening_of(agent, module, notes)
    if opening.said:
        config.session_config.greeting = opening.said
    elif opening.told:
        config.session_config.greeting_instructions = opening.told
    servers = [*(getattr(agent, "_mcp_servers", None) or ()), *session.keywords.get("mcp_servers", ())]
    read_tools([*agent.tools, *session.keywords.get("tools", ())], servers, wishes.tools_url, config, notes)
    notes += [f"{method}(): {why}" for method, why in _OWN_METHODS.items() if method in vars(type(agent))]
    return reading


def _made(module: ModuleType, name: str, config: AgentConfig) -> Agent:
    """The agent. What its constructor wants as text becomes a variable of the prompt."""
    make = getattr(module, name, None)
    if not callable(make):
        agents = [
            k
            for k, v in vars(module).items()
            if isinstance(v, type) and issubclass(v, Agent) and v is not Agent
        ]
        raise SystemExit(
            f"the module has no class or function {name}; its agents: {', '.join(agents) or 'none'}"
        )
    given: dict[str, str] = {}
    for parameter in inspect.signature(make).parameters.values():
        if parameter.default is not parameter.empty or parameter.kind in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        ):
            continue
        if parameter.annotation not in (parameter.empty, str, "str"):
            raise SystemExit(
                f"{name}() needs {parameter}, which is no text: give a function that makes it, FILE.py:NAME"
            )
        given[parameter.name] = f"{{{{ {parameter.name} }}}}"
    agent = make(**given)
    if not isinstance(agent, Agent):
        raise SystemExit(f"{name} makes no Agent but {type(agent).__name__}")
    for variable in given:
        config.prompt_config.dynamic_vars[variable] = ""
    return agent


def _read_prompt(agent: Agent, config: AgentConfig, notes: Notes) -> None:
    """The instructions; braces that are no variables stay as they are written."""
    text = str(agent.instructions)
    variables = {f"{{{{ {name} }}}}": name for name in config.prompt_config.dynamic_vars}
    pieces, rest = [], text
    while rest:
        at, variable = min(((rest.find(v), v) for v in variables if v in rest), default=(len(rest), ""))
        pieces += [_literal(rest[:at]), variable]
        rest = rest[at + len(variable) :]
    config.prompt_config.instructions = "".join(pieces)
    for written, name in variables.items():
        if written not in text:
            notes.append(f"{name}: the constructor wants it, but the instructions do not hold it")
            del config.prompt_config.dynamic_vars[name]


def _literal(text: str) -> str:
    return f"{{% raw %}}{text}{{% endraw %}}" if "{{" in text or "{%" in text else text


def _models(agent: Agent, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The agent's own models, else those of its session."""
    own = {"stt": agent.stt, "llm": agent.llm, "tts": agent.tts, "vad": agent.vad}
    return {name: model or keywords.get(name) for name, model in own.items()}


def _read_reply(module: ModuleType, wishes: Wishes, config: AgentConfig, notes: Notes) -> None:
    reply = None if wishes.reply is None else reply_of(module, wishes.reply)
    if reply is None:
        return
    fields = fields_of(reply, notes)
    texts = [each for each in fields if each.field_type == "string"]
    steering = {each.field_name for each in texts if each.field_name.endswith("instructions")}
    if wishes.spoken and wishes.spoken not in {each.field_name for each in texts}:
        raise SystemExit(
            f"--spoken {wishes.spoken}: the texts of {reply.__name__} are "
            f"{', '.join(each.field_name for each in texts) or 'none'}"
        )
    spoken = wishes.spoken or next((each.field_name for each in texts if each.field_name not in steering), "")
    for each in texts:
        if each.field_name == spoken:
            each.metadata.use_in_tts = True
    if not spoken:
        notes.append(f"{reply.__name__} has no text that can be spoken: give metadata.use_in_tts to one")
    config.schema_config.schema_id = reply.__name__
    config.schema_config.fields.extend(fields)


def _steer_speech(config: AgentConfig) -> None:
    """A text whose name ends with `instructions` says how to speak, where there is a voice."""
    for each in config.schema_config.fields:
        steers = each.field_type == "string" and each.field_name.endswith("instructions")
        if steers and not each.metadata.use_in_tts and config.HasField("tts_config"):
            config.tts_config.instruction_field = each.field_name
            return


def _turns(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The session's turn handling, by the names of TurnHandlingOptions."""
    turns = dict(keywords.get("turn_handling") or {})
    for keyword, block, name in (
        ("min_endpointing_delay", "endpointing", "min_delay"),
        ("max_endpointing_delay", "endpointing", "max_delay"),
        ("allow_interruptions", "interruption", "enabled"),
        ("min_interruption_duration", "interruption", "min_duration"),
        ("min_interruption_words", "interruption", "min_words"),
        ("false_interruption_timeout", "interruption", "false_interruption_timeout"),
    ):
        if keyword in keywords:
            turns[block] = {**turns.get(block, {}), name: keywords[keyword]}
    if "turn_detection" in keywords:
        turns["turn_detection"] = keywords["turn_detection"]
    return turns


def _read_turns(turns: Mapping[str, Any], config: AgentConfig, notes: Notes) -> None:
    detection = turns.get("turn_detection")
    if isinstance(detection, str):
        config.turn_config.turn_detection = detection
    elif detection is not None:
        notes.append(f"turn_detection: {type(detection).__name__} is a model of its own; the default is used")
    for block, name, target in _DURATIONS:
        seconds = turns.get(block, {}).get(name)
        if seconds is not None:
            getattr(config.turn_config, target).FromNanoseconds(round(seconds * 1e9))
    interruption = turns.get("interruption", {})
    if "enabled" in interruption:
        config.turn_config.allow_interruptions = interruption["enabled"]
    if "min_words" in interruption:
        config.turn_config.min_interruption_words = interruption["min_words"]
    if (turns.get("preemptive_generation") or {}).get("enabled"):
        notes.append(
            "preemptive_generation: a reply begins when the turn has ended, so that a change is in it"
        )

"""The models of an agent as blocks of a config.

A plugin's model keeps what it was made with in `_opts`. What differs there from
a model that is made with nothing is carried over: under the block's own name,
else under `options` by the name of the constructor's parameter. Keys are never
read: a config refers to them.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from livekit.agents import inference, llm, stt, tts, vad

from voxplane.v1.agent_config_pb2 import AgentConfig

Notes = list[str]

KEYS = {
    "anthropic": "ANTHROPIC_API_KEY",
    "assemblyai": "ASSEMBLYAI_API_KEY",
    "cartesia": "CARTESIA_API_KEY",
    "deepgram": "DEEPGRAM_API_KEY",
    "elevenlabs": "ELEVEN_API_KEY",
    "google": "GOOGLE_API_KEY",
    "groq": "GROQ_API_KEY",
    "openai": "OPENAI_API_KEY",
}
"""Where a plugin looks for its key."""

_PLUGIN = re.compile(r"livekit\.plugins\.(\w+)")
_RENAMED = {
    "endpoint_url": "base_url",
    "keyterm": "keyterms",
    "max_completion_tokens": "max_output_tokens",
}
_SECRET = re.compile(r"key$|_keys$|token$|secret|password|credential|headers")
_BLOCKS = (
    ("stt", "stt_config", stt.FallbackAdapter, "_stt_instances"),
    ("llm", "llm_config", llm.FallbackAdapter, "_llm_instances"),
    ("tts", "tts_config", tts.FallbackAdapter, "_tts_instances"),
)


def read_models(models: dict[str, Any], config: AgentConfig, notes: Notes) -> None:
    """The models by the names that Agent and AgentSession give them: stt, llm, tts, vad."""
    realtime = models.get("llm")
    if isinstance(realtime, llm.RealtimeModel):
        config.realtime_config.enabled = True
        _read(realtime, config.realtime_config, "llm", notes)
        models = {name: model for name, model in models.items() if name != "llm"}
    for name, block_name, adapter, kept in _BLOCKS:
        model = models.get(name)
        if not model:
            continue
        block = getattr(config, block_name)
        first, *others = getattr(model, kept) if isinstance(model, adapter) else [model]
        _read(first, block, name, notes)
        for other in others:
            _read(other, block.fallbacks.add(), name, notes)
    _read_vad(models.get("vad"), config, notes)


def _read(model: Any, block: Any, name: str, notes: Notes) -> None:
    model = _unwrapped(model)
    if isinstance(model, str):
        model = _by_inference(model, name)
    if type(model).__module__.startswith(inference.__name__):
        _read_inference(model, block, name, notes)
        return
    plugin = _PLUGIN.match(type(model).__module__)
    if plugin is None:
        block.provider = "openai"
        notes.append(
            f"{name}: {type(model).__qualname__} is no plugin of LiveKit's; it stands as openai: choose one"
        )
        return
    block.provider = plugin[1]
    if (variable := KEYS.get(block.provider)) and _knows(block, "api_key"):
        block.api_key = f"env:{variable}"
    for option, value in _made_with(model, name, notes):
        _put(block, _RENAMED.get(option, option), value, model, name, notes)


def _unwrapped(model: Any) -> Any:
    """The model in a stt.StreamAdapter or tts.StreamAdapter."""
    if isinstance(model, stt.StreamAdapter):
        return model.wrapped_stt
    return getattr(model, "_wrapped_tts", model) if isinstance(model, tts.StreamAdapter) else model


def _by_inference(model: str, name: str) -> Any:
    kinds = {"stt": inference.STT, "tts": inference.TTS}
    made = kinds[name].from_model_string if name in kinds else inference.llm_from_model_string
    return made(model)


def _read_inference(model: Any, block: Any, name: str, notes: Notes) -> None:
    options = getattr(model, "_opts", None)
    provider, _, of_provider = str(getattr(options, "model", "")).partition("/")
    block.provider, block.model = provider, of_provider
    if variable := KEYS.get(provider):
        block.api_key = f"env:{variable}"
    for option in ("language", "voice"):
        value = getattr(options, option, None)
        if _is_set(value) and _knows(block, option):
            setattr(block, option, str(value))
    notes.append(
        f"{name}: LiveKit Inference is not used; {provider} is asked directly, with a key of your own. "
        "Options beside model, language and voice are not carried over"
    )


def _made_with(model: Any, name: str, notes: Notes) -> Iterator[tuple[str, Any]]:
    """What the model was made with, and would not have been by itself."""
    try:
        plain = type(model)()
    except Exception as error:  # whatever a plugin raises
        plain = None
        notes.append(f"{name}: which options are the plugin's own cannot be seen ({type(error).__name__})")
    for option, value in vars(getattr(model, "_opts", None) or _Nothing()).items():
        asked = option in ("model", "language", "voice")  # also where it is the default: defaults change
        same = plain is not None and _same(getattr(getattr(plain, "_opts", None), option, None), value)
        if _is_set(value) and (asked or not same) and (plain is not None or asked or option in _SAFE):
            yield option, value
    address = _address(model)
    if address and plain is not None and address != _address(plain):
        yield "base_url", address


class _Nothing:
    """A model that keeps no options."""


_JSON = (str, int, float, list, tuple, dict)
_SAFE = ("temperature", "speed", "instructions", "max_completion_tokens")


def _same(plain: Any, value: Any) -> bool:
    """Whether it is the plugin's own value; of parts such as tokenizers the kind counts."""
    return plain == value or (type(plain) is type(value) and not isinstance(value, _JSON))


def _address(model: Any) -> str:
    return str(getattr(getattr(model, "_client", None), "base_url", "")).rstrip("/")


def _put(block: Any, option: str, value: Any, model: Any, name: str, notes: Notes) -> None:
    if option == "languages" and len(value) == 1:
        option, value = "language", value[0]
    if _SECRET.search(option):
        if option != "api_key":
            notes.append(f"{name}: {option} may hold a secret and is not read; give it by reference")
    elif _knows(block, option):
        _put_own(block, option, value)
    elif option in inspect.signature(type(model).__init__).parameters and _knows(block, "options"):
        try:
            json_format.ParseDict({option: json.loads(json.dumps(value))}, block.options)
        except (TypeError, ValueError, json_format.ParseError):
            notes.append(f"{name}: {option} is no JSON ({type(value).__name__}), and not carried over")
    elif isinstance(value, _JSON):
        notes.append(f"{name}: {option}={value!r} has no counterpart")


def _put_own(block: Any, option: str, value: Any) -> None:
    """Set an option that the block has itself."""
    if block.DESCRIPTOR.fields_by_name[option].is_repeated:
        getattr(block, option).extend([value] if isinstance(value, str) else value)
    else:
        # plugins have subclasses of str
        setattr(block, option, str(value) if isinstance(value, str) else value)


def _read_vad(model: Any, config: AgentConfig, notes: Notes) -> None:
    if model is None:
        return
    if not isinstance(model, vad.VAD):
        notes.append("vad: it is made elsewhere, such as in prewarm; silero's is the default here")
        return
    options, block = getattr(model, "_opts", None), config.vad_config
    plugin = _PLUGIN.match(type(model).__module__)
    block.provider = plugin[1] if plugin else "silero"
    if threshold := getattr(options, "activation_threshold", None):
        block.activation_threshold = threshold
    for option, name in (
        ("min_speech_duration", "min_speech_duration"),
        ("min_silence_duration", "min_silence_duration"),
    ):
        seconds = getattr(options, option, None)
        if seconds is not None:
            getattr(block, name).FromNanoseconds(round(seconds * 1e9))


def _knows(block: Any, name: str) -> bool:
    return name in block.DESCRIPTOR.fields_by_name


def _is_set(value: Any) -> bool:
    return value is not None and value not in ("", [], ()) and str(value) != "NOT_GIVEN"

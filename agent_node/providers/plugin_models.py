"""Models of any plugin: a config's fields become arguments of its constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeAlias, cast

from livekit.plugins import openai as openai_plugin

from agent_node.providers.arguments import Arguments, seconds_of
from agent_node.providers.context import Place
from agent_node.providers.models import LLM, REALTIME, STT, TTS, VAD
from agent_node.providers.openai import BASE_URL, OnSharedClient
from agent_node.providers.patience import (
    PatientLLM,
    PatientSTT,
    PatientTTS,
    llm_patience,
    stt_patience,
    tts_patience,
)
from agent_node.providers.plugins import PACKAGE
from agent_node.providers.values import JSON
from voxplane.v1.agent_config_pb2 import LlmConfig, RealtimeConfig, SttConfig, TtsConfig, VadConfig

AnyConfig: TypeAlias = "LlmConfig | SttConfig | TtsConfig | VadConfig | RealtimeConfig"

KEY_NAMES = ("api_key", "auth_token", "speech_key", "subscription_key", "token")
ADDRESS_NAMES = ("base_url", "api_url", "api_base", "endpoint", "url", "ws_url")
NAMES: Mapping[str, tuple[str, ...]] = {
    "model": ("model", "model_id", "model_name"),
    "temperature": ("temperature",),
    "max_output_tokens": ("max_completion_tokens", "max_output_tokens", "max_tokens"),
    "language": ("language", "languages", "language_code", "language_hints", "lang"),
    "keyterms": ("keyterms", "keyterm", "keyterms_prompt", "keywords", "word_boost", "phrases"),
    "voice": ("voice", "voice_id", "voice_name", "speaker"),
    "speed": ("speed", "speaking_rate", "rate"),
    "instructions": ("instructions",),
    "activation_threshold": ("activation_threshold", "threshold"),
    "min_speech_duration": ("min_speech_duration",),
    "min_silence_duration": ("min_silence_duration",),
}
"""By what names the parameters of constructors go that a config's fields mean."""
_PACE = {"timeout": ("timeout", "conn_options"), "max_retries": ("max_retries",)}
_ON_CLIENT = (openai_plugin.LLM, openai_plugin.STT, openai_plugin.TTS)
"""Who derives from these takes a client of openai's, and makes its own without one: 17 ms."""


class InstructedTTS:
    """A TTS whose plugin lets its instructions be changed."""

    def __init__(self, *, own_instructions: str, **options: Any) -> None:
        super().__init__(**options)
        self._own_instructions = own_instructions

    def set_instructions(self, instructions: str) -> None:
        """How to speak from now on; empty means the config's own."""
        cast("Any", self).update_options(instructions=instructions or self._own_instructions)


def build_llm(kind: type[LLM], config: LlmConfig, place: Place) -> LLM:
    """The plugin's LLM. Of those that do not speak OpenAI's protocol none is
    asked to obey a schema by its own means, unless the config says that it can."""
    structured = issubclass(kind, openai_plugin.LLM)
    if config.HasField("supports_structured_output"):
        structured = config.supports_structured_output
    patience = llm_patience(config, last=place.last)
    return _make(kind, (PatientLLM,), config, place, patience=patience, structured=structured)


def build_stt(kind: type[STT], config: SttConfig, place: Place) -> STT:
    """The plugin's STT."""
    return _make(kind, (PatientSTT,), config, place, patience=stt_patience(config, last=place.last))


def build_tts(kind: type[TTS], config: TtsConfig, place: Place) -> TTS:
    """The plugin's TTS."""
    patience = tts_patience(config, last=place.last)
    if "instructions" not in inspect.signature(getattr(kind, "update_options", object)).parameters:
        return _make(kind, (PatientTTS,), config, place, patience=patience)
    mixins = (InstructedTTS, PatientTTS)
    return _make(kind, mixins, config, place, patience=patience, own_instructions=config.instructions)


def build_vad(kind: type[VAD], config: VadConfig, place: Place) -> VAD:
    """The plugin's VAD."""
    load: Callable[..., VAD] = getattr(kind, "load", kind)
    settings = _arguments(load, _title(kind), config, place)
    return load(**settings)


def build_realtime(kind: type[REALTIME], config: RealtimeConfig, place: Place) -> REALTIME:
    """The plugin's realtime model."""
    return kind(**_arguments(kind, _title(kind), config, place))


def _make(
    kind: type[Any], mixins: tuple[type[Any], ...], config: AnyConfig, place: Place, **ours: Any
) -> Any:
    settings = _arguments(kind, _title(kind), config, place)
    if not (issubclass(kind, _ON_CLIENT) and "client" in inspect.signature(kind).parameters):
        return _derived(kind, mixins)(**ours, **settings)
    address = settings.get("base_url") or _default(kind, "base_url") or BASE_URL
    clients = place.context.clients
    client = clients.acquire(address, settings["api_key"])
    try:
        return _derived(kind, (OnSharedClient, *mixins))(pool=clients, client=client, **ours, **settings)
    except BaseException:
        clients.unuse(client)
        raise


def _arguments(
    constructor: Callable[..., Any], title: str, config: AnyConfig, place: Place
) -> dict[str, Any]:
    given = Arguments(constructor, title, place.path)
    if given.takes("http_session"):
        given.own(http_session=place.context.http_session())
    fields = config.DESCRIPTOR.fields_by_name
    for name in ("timeout", "max_retries"):
        if name in fields:
            given.reserve(name, *_PACE[name])
    for name, parameters in NAMES.items():
        if name in fields:
            given.field(name, _value(config, name), *parameters)
    key = None
    if "api_key" in fields:
        given.field("base_url", _value(config, "base_url"), *ADDRESS_NAMES)
        key = given.first(*KEY_NAMES)
        if key is not None:
            given.reserve("api_key", key)
        else:
            given.field("api_key", _value(config, "api_key"))
    given.options(config.options, place.context.secrets)
    settings = given.finish()
    if key is not None:
        reference = _value(config, "api_key") or f"env:{_top_name(constructor)}_API_KEY"
        settings[key] = place.secret(str(reference))
    return settings


def _value(config: AnyConfig, name: str) -> JSON:
    """What the config says in a field; None if nothing."""
    field = config.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None:
        return seconds_of(config, name)
    if field.is_repeated:
        return list(getattr(config, name)) or None
    if field.has_presence:
        return getattr(config, name) if config.HasField(name) else None  # pyright: ignore[reportArgumentType]
    return getattr(config, name) or None


@cache
def _derived(kind: type[Any], mixins: tuple[type[Any], ...]) -> Callable[..., Any]:
    """The plugin's class with ours before it, under its own name."""
    return type(kind.__name__, (*mixins, kind), {"__module__": kind.__module__})


def _title(kind: type[Any]) -> str:
    return f"{_plugin_of(kind)}.{kind.__name__}"


def _plugin_of(constructor: Any) -> str:
    """The plugin that a class, or a method of one, is of."""
    return constructor.__module__.removeprefix(f"{PACKAGE}.").partition(".")[0]


def _top_name(constructor: Any) -> str:
    return _plugin_of(constructor).upper()


def _default(kind: type[Any], name: str) -> str:
    parameter = inspect.signature(kind).parameters.get(name)
    return parameter.default if parameter and isinstance(parameter.default, str) else ""

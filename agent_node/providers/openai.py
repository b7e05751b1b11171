"""OpenAI, and everything that speaks its protocol: LLM, STT, TTS, realtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import aiohttp
import openai
from livekit.agents import NOT_GIVEN
from livekit.plugins import openai as plugin

from agent_node.providers.arguments import Arguments
from agent_node.providers.context import ClientPool, Place
from agent_node.providers.models import REALTIME
from agent_node.providers.patience import (
    PatientLLM,
    PatientSTT,
    PatientTTS,
    llm_patience,
    stt_patience,
    tts_patience,
)
from agent_node.providers.silero import SileroVAD
from voxplane.v1.agent_config_pb2 import LlmConfig, RealtimeConfig, SttConfig, TtsConfig

BASE_URL = "https://api.openai.com/v1"
API_KEY = "env:OPENAI_API_KEY"
LLM_MODEL = "gpt-4.1"
STT_MODEL = "gpt-4o-mini-transcribe"
TTS_MODEL = "gpt-4o-mini-tts"
TTS_VOICE = "ash"
TTS_FORMAT = "wav"

_TAKE_KEYWORDS = ("gpt-transcribe", "gpt-live-transcribe")
_NEED_VAD = ("gpt-live-transcribe", "gpt-realtime-whisper")

_Model = TypeVar("_Model")


class OnSharedClient:
    """A model that gives its client back when it is closed."""

    def __init__(self, *, pool: ClientPool, client: openai.AsyncClient, **options: Any) -> None:
        super().__init__(**{"client": client, **options})
        self._lent: tuple[ClientPool, openai.AsyncClient] | None = (pool, client)

    async def aclose(self) -> None:
        """Close, and give the client back. Does nothing the second time."""
        lent, self._lent = self._lent, None
        if lent is not None:
            await super().aclose()  # type: ignore[misc]
            pool, client = lent
            await pool.release(client)


class OpenAILLM(OnSharedClient, PatientLLM, plugin.LLM):
    """The plugin's LLM on a shared client, with the config's timeout and retries."""


class OpenAISTT(OnSharedClient, PatientSTT, plugin.STT):
    """The plugin's STT on a shared client and HTTP session."""

    def __init__(self, *, http_session: aiohttp.ClientSession, **options: Any) -> None:
        super().__init__(**options)
        self._session = http_session


class OpenAITTS(OnSharedClient, PatientTTS, plugin.TTS):
    """The plugin's TTS on a shared client."""

    def __init__(self, *, instructions: str, **options: Any) -> None:
        super().__init__(instructions=instructions or NOT_GIVEN, **options)
        self._instructions = instructions

    def set_instructions(self, instructions: str) -> None:
        """How to speak from the next synthesis on; empty means the config's own."""
        self._opts = replace(self._opts, instructions=instructions or self._instructions or None)


def build_llm(config: LlmConfig, place: Place) -> OpenAILLM:
    """OpenAI's LLM."""
    given = _arguments(plugin.LLM, "openai.LLM", config, place)
    given.field("model", config.model or LLM_MODEL, "model")
    given.field("temperature", config.temperature if config.HasField("temperature") else None, "temperature")
    given.field("max_output_tokens", config.max_output_tokens or None, "max_completion_tokens")
    given.options(config.options, place.context.secrets)
    structured = config.supports_structured_output or not config.HasField("supports_structured_output")
    return _on_client(
        OpenAILLM,
        config,
        place,
        patience=llm_patience(config, last=place.last),
        structured=structured,
        **given.finish(),
    )


def build_stt(config: SttConfig, place: Place) -> OpenAISTT:
    """OpenAI's STT. It streams by the realtime protocol, unless options say
    `use_realtime: false`: then each utterance is sent as a file once it has ended."""
    model = config.model or STT_MODEL
    given = _arguments(plugin.STT, "openai.STT", config, place)
    given.field("model", model, "model")
    given.field("language", config.language or None, "language")
    keywords = list(config.keyterms) if model.startswith(_TAKE_KEYWORDS) else []
    given.field("keyterms", [*keywords] or None, "keywords")
    given.own(vad=(place.vad or SileroVAD.of_process()) if model.startswith(_NEED_VAD) else NOT_GIVEN)
    given.options(config.options, place.context.secrets)
    settings = given.finish()
    if config.keyterms and not keywords:
        settings["prompt"] = _prompt(settings.get("prompt", ""), config)
    settings.setdefault("use_realtime", True)
    return _on_client(
        OpenAISTT,
        config,
        place,
        http_session=place.context.http_session(),
        patience=stt_patience(config, last=place.last),
        **settings,
    )


def build_tts(config: TtsConfig, place: Place) -> OpenAITTS:
    """OpenAI's TTS; it takes instructions."""
    given = _arguments(plugin.TTS, "openai.TTS", config, place)
    given.field("model", config.model or TTS_MODEL, "model")
    given.field("voice", config.voice or TTS_VOICE, "voice")
    given.field("speed", config.speed if config.HasField("speed") else None, "speed")
    given.field("instructions", config.instructions, "instructions")
    given.options(config.options, place.context.secrets)
    settings = given.finish()
    settings.setdefault("response_format", TTS_FORMAT)
    return _on_client(
        OpenAITTS,
        config,
        place,
        patience=tts_patience(config, last=place.last),
        **settings,
    )


def build_realtime(config: RealtimeConfig, place: Place) -> REALTIME:
    """OpenAI's realtime model, on the job's HTTP session."""
    given = Arguments(plugin.realtime.RealtimeModel, "openai.realtime.RealtimeModel", place.path)
    given.own(http_session=place.context.http_session())
    given.field("model", config.model or None, "model")
    given.field("voice", config.voice or None, "voice")
    given.field("base_url", config.base_url or BASE_URL, "base_url")
    given.reserve("api_key", "api_key")
    given.options(config.options, place.context.secrets)
    settings = given.finish()
    return plugin.realtime.RealtimeModel(api_key=place.secret(config.api_key or API_KEY), **settings)


def _arguments(
    constructor: Callable[..., Any], title: str, config: LlmConfig | SttConfig | TtsConfig, place: Place
) -> Arguments:
    given = Arguments(constructor, title, place.path)
    given.reserve("timeout", "timeout")
    given.reserve("max_retries", "max_retries")
    given.reserve("api_key", "api_key")
    given.reserve("base_url", "base_url")
    return given


def _on_client(
    kind: Callable[..., _Model], config: LlmConfig | SttConfig | TtsConfig, place: Place, **settings: Any
) -> _Model:
    clients = place.context.clients
    client = clients.acquire(config.base_url or BASE_URL, place.secret(config.api_key or API_KEY))
    try:
        return kind(pool=clients, client=client, **settings)
    except BaseException:
        clients.unuse(client)
        raise


def _prompt(prompt: str, config: SttConfig) -> str:
    """The older models know no keywords, and take a hint in words."""
    return f"{prompt}\nWords that may occur: {', '.join(config.keyterms)}.".lstrip()

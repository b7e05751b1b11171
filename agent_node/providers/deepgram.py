"""Deepgram: STT and TTS."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from livekit.plugins import deepgram as plugin

from agent_node.providers.arguments import Arguments
from agent_node.providers.context import Place
from agent_node.providers.models import STT, TTS
from agent_node.providers.patience import PatientSTT, PatientTTS, stt_patience, tts_patience
from voxplane.v1.agent_config_pb2 import SttConfig, TtsConfig

BASE_URL = "https://api.deepgram.com"
API_KEY = "env:DEEPGRAM_API_KEY"
STT_MODEL = "nova-3"
STT_LANGUAGE = "en-US"
TTS_MODEL = "aura-2"
TTS_VOICE = "aura-2-andromeda-en"
SPEED_MIN, SPEED_MAX = 0.7, 1.5
KEYWORD_BOOST = 1.0

_FLUX = "flux"
_TAKES_KEYTERM = "nova-3"


class DeepgramSTT(PatientSTT, plugin.STT):
    """The plugin's STT, with the config's timeout and retries."""


class DeepgramFluxSTT(PatientSTT, plugin.STTv2):
    """The same for Deepgram's models that find the end of a turn."""


class DeepgramTTS(PatientTTS, plugin.TTS):
    """The plugin's TTS, with the config's timeout and retries."""


class DeepgramFluxTTS(PatientTTS, plugin.TTSv2):
    """The same for the voices flux-*."""


def build_stt(config: SttConfig, place: Place) -> STT:
    """Deepgram's streaming STT; the models flux-* find the turn's end too."""
    model = config.model or STT_MODEL
    flux = model.startswith(_FLUX)
    constructor = plugin.STTv2 if flux else plugin.STT
    given = Arguments(constructor, f"deepgram.{constructor.__name__}", place.path)
    given.own(
        base_url=_address(config.base_url, "/v2/listen" if flux else "/v1/listen"),
        http_session=place.context.http_session(),
    )
    given.field("model", model, "model")
    if flux:
        given.field("language", [config.language] if config.language else None, "language_hint")
    else:
        given.field("language", config.language or STT_LANGUAGE, "language")
    given.reserve("keyterms", "keyterms")
    _keyterms(given, config, model)
    _ours(given)
    given.options(config.options, place.context.secrets)
    settings = given.finish()
    kind = DeepgramFluxSTT if flux else DeepgramSTT
    patience = stt_patience(config, last=place.last)
    return kind(patience=patience, api_key=place.secret(config.api_key or API_KEY), **settings)


def build_tts(config: TtsConfig, place: Place) -> TTS:
    """Deepgram's streaming TTS; it takes no instructions.

    Deepgram has no voice beside the model: `voice` is the whole name, such as
    aura-2-thalia-en, or the short one, thalia, with `model` aura-2.
    """
    voice = _voice(config.model, config.voice)
    flux = voice.startswith(_FLUX)
    constructor = plugin.TTSv2 if flux else plugin.TTS
    given = Arguments(constructor, f"deepgram.{constructor.__name__}", place.path)
    given.own(
        base_url=_address(config.base_url, "/v2/speak" if flux else "/v1/speak"),
        http_session=place.context.http_session(),
    )
    given.field("voice", voice, "model")
    given.field("instructions", config.instructions or None)
    given.field("speed", config.speed if config.HasField("speed") else None, "speed")
    said = f"deepgram speaks at a speed of {SPEED_MIN} to {SPEED_MAX}"
    given.check("speed", lambda speed: SPEED_MIN <= speed <= SPEED_MAX, said)
    _ours(given)
    given.options(config.options, place.context.secrets)
    settings = given.finish()
    kind = DeepgramFluxTTS if flux else DeepgramTTS
    patience = tts_patience(config, last=place.last)
    return kind(patience=patience, api_key=place.secret(config.api_key or API_KEY), **settings)


def _ours(given: Arguments) -> None:
    given.reserve("api_key", "api_key")
    given.reserve("base_url", "base_url")


def _keyterms(given: Arguments, config: SttConfig, model: str) -> None:
    """Older models take them as keywords, each with a weight."""
    terms: list[Any] = list(config.keyterms)
    if model.startswith((_FLUX, _TAKES_KEYTERM)):
        given.field("keyterms", terms or None, "keyterm")
    else:
        given.field("keyterms", [[term, KEYWORD_BOOST] for term in terms] or None, "keywords")


def _voice(model: str, voice: str) -> str:
    if not voice:
        return model if model.count("-") > 1 else TTS_VOICE
    return voice if "-" in voice else f"{model or TTS_MODEL}-{voice}-en"


def _address(base_url: str, path: str) -> str:
    parts = urlsplit(base_url or BASE_URL)
    if parts.path.rstrip("/") in ("", "/v1", "/v2"):
        parts = parts._replace(path=path)
    return urlunsplit(parts)

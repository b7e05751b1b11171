"""Deepgram: STT and TTS."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from livekit.plugins import deepgram as plugin

from agent_node.providers.context import BuildContext
from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import SttConfig, TtsConfig

BASE_URL = "https://api.deepgram.com"
API_KEY = "env:DEEPGRAM_API_KEY"
STT_MODEL = "nova-3"
STT_LANGUAGE = "en-US"
TTS_MODEL = "aura-2"
TTS_VOICE = "aura-2-andromeda-en"
SPEED_MIN, SPEED_MAX = 0.7, 1.5


def build_stt(config: SttConfig, context: BuildContext) -> plugin.STT:
    """Deepgram's streaming STT."""
    return plugin.STT(
        model=config.model or STT_MODEL,
        language=config.language or STT_LANGUAGE,
        api_key=context.secrets.resolve(config.api_key or API_KEY, "stt_config.api_key"),
        base_url=_address(config.base_url, "/v1/listen"),
        http_session=context.http_session(),
    )


def build_tts(config: TtsConfig, context: BuildContext) -> plugin.TTS:
    """Deepgram's streaming TTS; it takes no instructions.

    Deepgram has no voice beside the model: `voice` is the whole name, such as
    aura-2-thalia-en, or the short one, thalia, with `model` aura-2.
    """
    speed = config.speed if config.HasField("speed") else None
    if speed is not None and not SPEED_MIN <= speed <= SPEED_MAX:
        said = f"deepgram speaks at a speed of {SPEED_MIN} to {SPEED_MAX}"
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_BUILD_FAILED,
            f"tts_config.speed: {said}",
            violations=[Violation("tts_config.speed", said)],
        )
    return plugin.TTS(
        model=_voice(config.model, config.voice),
        speed=speed,
        api_key=context.secrets.resolve(config.api_key or API_KEY, "tts_config.api_key"),
        base_url=_address(config.base_url, "/v1/speak"),
        http_session=context.http_session(),
    )


def _voice(model: str, voice: str) -> str:
    if not voice:
        return model if model.count("-") > 1 else TTS_VOICE
    return voice if "-" in voice else f"{model or TTS_MODEL}-{voice}-en"


def _address(base_url: str, path: str) -> str:
    parts = urlsplit(base_url or BASE_URL)
    if parts.path.rstrip("/") in ("", "/v1"):
        parts = parts._replace(path=path)
    return urlunsplit(parts)

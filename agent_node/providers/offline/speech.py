"""The offline voice: a quiet tone, as long as the words would take."""

from __future__ import annotations

import math
from array import array
from hashlib import sha256
from typing import Any

from livekit.agents import DEFAULT_API_CONNECT_OPTIONS, APIConnectOptions, tts

SAMPLE_RATE = 24_000
SECONDS_PER_CHAR = 0.06
SECONDS_MAX = 30.0
AMPLITUDE = 3_000
_LOWEST_HZ, _HERTZ_SPAN = 200, 600


def tone(voice: str, text: str) -> bytes:
    """PCM, 16 bit, one channel, 24 kHz: each voice has its own pitch."""
    pitch = _LOWEST_HZ + int.from_bytes(sha256(voice.encode()).digest()[:2]) % _HERTZ_SPAN
    seconds = min(max(len(text) * SECONDS_PER_CHAR, 0.1), SECONDS_MAX)
    # one second is computed and repeated: a whole number of waves fits into it
    wave = array(
        "h", (int(AMPLITUDE * math.sin(2 * math.pi * pitch * i / SAMPLE_RATE)) for i in range(SAMPLE_RATE))
    )
    samples = int(seconds * SAMPLE_RATE)
    return (wave * math.ceil(seconds))[:samples].tobytes()


class OfflineTTS(tts.TTS[Any]):
    """Hums instead of speaking."""

    def __init__(self, *, model: str, voice: str, instructions: str = "") -> None:
        super().__init__(
            capabilities=tts.TTSCapabilities(streaming=False), sample_rate=SAMPLE_RATE, num_channels=1
        )
        self._model = model
        self._default = instructions
        self.voice = voice
        self.instructions = instructions

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model

    @property
    def provider(self) -> str:
        """Always `offline`."""
        return "offline"

    def set_instructions(self, instructions: str) -> None:
        """Kept, and without effect on the tone; empty means the config's own."""
        self.instructions = instructions or self._default

    def synthesize(
        self, text: str, *, conn_options: APIConnectOptions = DEFAULT_API_CONNECT_OPTIONS
    ) -> tts.ChunkedStream:
        """The tone for `text`."""
        return _Stream(tts=self, input_text=text, conn_options=conn_options)


class _Stream(tts.ChunkedStream):
    def __init__(self, *, tts: OfflineTTS, input_text: str, conn_options: APIConnectOptions) -> None:
        super().__init__(tts=tts, input_text=input_text, conn_options=conn_options)  # pyright: ignore[reportUnknownMemberType]
        self._voice = tts.voice

    async def _run(self, output_emitter: tts.AudioEmitter) -> None:
        output_emitter.initialize(
            request_id="offline", sample_rate=SAMPLE_RATE, num_channels=1, mime_type="audio/pcm"
        )
        output_emitter.push(tone(self._voice, self._input_text))
        output_emitter.flush()

"""LiveKit's model types with their events left open."""

from __future__ import annotations

from typing import Any, TypeAlias

from livekit.agents import llm, stt, tts, vad

LLM: TypeAlias = llm.LLM[Any]
STT: TypeAlias = stt.STT[Any]
TTS: TypeAlias = tts.TTS[Any]
VAD: TypeAlias = vad.VAD
REALTIME: TypeAlias = llm.RealtimeModel

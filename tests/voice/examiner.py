"""The agent under test, an examiner, and what its requests show of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.livekit.tenants import Tenant
from tests.vendors import Request
from tests.vendors.sound import pitch
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.schema_pb2 import SchemaField

CHAT, LISTEN, SPEECH = "/v1/chat/completions", "/v1/listen", "/v1/audio/speech"
PITCH_TOLERANCE = 0.03
LANGUAGES = ("en-US", "de-DE", "fr-FR", "es-ES", "it-IT")
VOICES = ("alloy", "ballad", "fable", "verse", "nova")
"""Their tones are far apart."""
SWAPPED = (
    "version",
    "prompt_config.instructions",
    "llm_config.model",
    "tts_config.voice",
    "stt_config.language",
    "schema_config.fields",
)
"""What `revised` changes from one number to the next."""


def fields() -> list[SchemaField]:
    """What the examiner's reply holds: how it is spoken, what is said, and a note."""
    tone = SchemaField(field_name="tone", field_type="string", required=True, description="How to speak.")
    answer = SchemaField(field_name="answer", field_type="string", required=True, description="What to say.")
    score = SchemaField(field_name="score", field_type="integer", required=True, description="1 to 5.")
    answer.metadata.use_in_tts = True
    return [tone, answer, score]


def examiner(tenant: Tenant, instructions: str = "You examine.") -> AgentConfig:
    """The config."""
    config = tenant.config(*fields(), instructions=instructions)
    config.tts_config.instruction_field = "tone"
    return config


def revised(tenant: Tenant, number: int) -> AgentConfig:
    """The config by number, 1 to 5: all that SWAPPED names is of that number alone."""
    config = examiner(tenant, f"You are number {number}.")
    config.version = f"number {number}"
    config.llm_config.model = f"gpt-{number}"
    config.tts_config.voice = VOICES[number - 1]
    config.stt_config.language = LANGUAGES[number - 1]
    config.schema_config.fields.add(field_name=f"note_{number}", field_type="string", required=True)
    return config


def assert_asked_by(number: int, request: Request) -> None:
    """The model was asked by the config of that number, and no other."""
    told = [message["content"] for message in request.body["messages"] if message["role"] == "system"]
    assert [text.strip() for text in told] == [f"You are number {number}."]
    assert request.body["model"] == f"gpt-{number}"
    properties = request.body["response_format"]["json_schema"]["schema"]["properties"]
    assert list(properties) == ["tone", "answer", "score", f"note_{number}"]


def assert_in_voice(pitches: Iterable[int], voice: str) -> None:
    """All that was heard has the pitch of the voice."""
    heard = list(pitches)
    assert heard
    assert all(abs(each / pitch(voice) - 1) < PITCH_TOLERANCE for each in heard), (heard, pitch(voice))


def conversation(request: Request) -> list[Any]:
    """What was said before, by both sides, as the model is told it."""
    return [message["content"] for message in request.body["messages"] if message["role"] != "system"]

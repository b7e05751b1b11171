"""Keys where references belong, and texts that only look odd."""

from __future__ import annotations

import random
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxplane.secrets import SecretReference, looks_like_key, parse_reference, secret_literals
from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig

SCAN_SECONDS_MAX = 1.0


def random_token(alphabet: str, length: int, seed: int) -> str:
    """A token as a vendor would draw it."""
    return "".join(random.Random(seed).choices(alphabet, k=length))


BASE62 = string.ascii_letters + string.digits
KEYS = {
    "openai": "sk-" + random_token(BASE62, 48, 1),
    "openai project": "sk-proj-" + random_token(BASE62 + "-_", 64, 2),
    "openai, short": "sk-abc1234567",
    "openai, letters": "sk-abcdefghijklmnopqrstuvwx",
    "anthropic": "sk-ant-api03-" + random_token(BASE62 + "-_", 64, 3),
    "aws id": "AKIA" + random_token(string.ascii_uppercase + string.digits, 16, 4),
    "aws secret": random_token(BASE62 + "+/", 40, 5),
    "github": "ghp_" + random_token(BASE62, 36, 6),
    "github, fine": "github_pat_" + random_token(BASE62 + "_", 60, 7),
    "gitlab": "glpat-" + random_token(BASE62, 20, 8),
    "slack": "xoxb-" + random_token(string.digits, 12, 9) + "-" + random_token(BASE62, 24, 9),
    "google": "AIza" + random_token(BASE62 + "-_", 35, 10),
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "langfuse": "sk-lf-1b2c3d4e-1111-2222-3333-444455556666",
    "elevenlabs": "sk_" + random_token("0123456789abcdef", 48, 11),
    "stripe": "sk" + "_live_" + random_token(BASE62, 24, 12),
    "groq": "gsk_" + random_token(BASE62, 52, 13),
    "deepgram": random_token("0123456789abcdef", 40, 14),
    "azure": random_token("0123456789abcdef", 32, 15),
    "livekit secret": random_token(BASE62, 44, 16),
    "pem": "-----BEGIN RSA PRIVATE KEY-----",
    "in a url": f"https://api.example.com/v1?model=a&api_key={random_token(BASE62, 20, 17)}",
    "password in a url": "postgres://admin:correcthorse@db.example.com/app",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("text", ["%s", "Use the key %s, please.", "key=%s", '{"api_key": "%s"}', "a\n%s\nb"])
def test_keys_are_found(key: str, text: str) -> None:
    """Vendors' keys are found alone and within prose."""
    assert looks_like_key(text.replace("%s", key))


@given(
    st.sampled_from([BASE62, string.ascii_lowercase + string.digits, "0123456789abcdef", BASE62 + "+/"]),
    st.integers(40, 90),
    st.randoms(use_true_random=False),
)
def test_long_random_tokens_are_found(alphabet: str, length: int, source: random.Random) -> None:
    """What was drawn at random is found without a known prefix."""
    token = "".join(random.Random(source.getrandbits(64)).choices(alphabet, k=length))
    assert (
        looks_like_key(f"It is {token}.") or not any(map(str.isdigit, token)) or "/" in token or "+" in token
    )


HARMLESS = (
    "You are a friendly interviewer. Ask one question at a time, and never reveal the score.",
    "Your task-management-and-planning-2 skills matter; so do ask-me-anything-2024-sessions.",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "Rindfleischetikettierungsueberwachungsaufgabenuebertragungsgesetz",
    "Straßenbahnhaltestellenüberdachung-Hauptbahnhof-Gleis-12",
    "Pneumonoultramicroscopicsilicovolcanoconiosis",
    "https://example.com/blog/2024/12/17/how-to-build-a-voice-agent-with-livekit?utm_source=newsletter&page=2",
    "wss://my-project-1a2b3c4d.livekit.cloud/rtc/validate/9f8e7d6c5b4a39281706f5e4d3c2b1a0",
    "www.example.com/a-very-long-path-with-many-words/and-numbers-2024/index.html",
    "https://example.com/callback?api_key={{ key_name }}",
    "d9ff78ba-d016-47f6-b0ef-dd630f59414e",
    "s3://voice-cloning-zero-shot/d9ff78ba-d016-47f6-b0ef-dd630f59414e/female-cs/manifest.json",
    "21m00Tcm4TlvDq8ikWAM",
    "gpt-4o-realtime-preview-2024-12-17",
    "accounts/fireworks/models/llama-v3p1-405b-instruct",
    "ft:gpt-4o-mini-2024-07-18:acme::AbCd1234",
    "us.anthropic.claude-3-5-sonnet-20241022-v2:0",
    "projects/my-project-123456/locations/us-central1/publishers/google/models/gemini-1.5-pro-002",
    "en-US-AvaMultilingualNeural",
    "en-US-Chirp3-HD-Charon",
    "aura-2-thalia-en",
    "a94a8fe5ccb19ba61c4c0873d391",
    "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "^[A-Za-z0-9_-]{43}$",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
    "A1-B2-C3-D4-E5-F6-G7-H8-I9-J10-K11-L12-M13-N14-O15-P16",
    "ABCD1-EFGH2-IJKL3-MNOP4-QRST5",
    "interview_stage_2_follow_up_question_version_3_final",
    "ThisIsAVeryLongCamelCaseIdentifierNameForAnInterviewStage2",
    "HTTPServerConnectionPoolConfigurationFactoryBuilderImpl",
    "iOS/macOS/iPadOS/watchOS/tvOS/visionOS/iPhoneOS",
    "env:OPENAI_API_KEY_FOR_THE_EUROPEAN_PROJECT_2",
    "file:/run/secrets/openai_api_key_for_the_european_project_2",
    "+49 30 1234567890 +49 30 1234567890 1234567890123456789012345678901234567890",
    "DE89 3704 0044 0532 0130 00 and DE89370400440532013000",
    "----------------------------------------------------------------",
    "| a | b |\n|---|---|\n================================================",
    "2024-12-17T10:00:00.000000Z/2024-12-18T10:00:00.000000Z",
    "こんにちは。面接を始めましょう。よろしくお願いします。",
    "Say sk- or AKIA or ghp_ or eyJ and nothing more.",
    "",
)


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_texts_pass(text: str) -> None:
    """Prose, names, addresses, ids and short hashes are no keys."""
    assert not looks_like_key(text)


WORDS = st.text(string.ascii_lowercase, min_size=6, max_size=30)


@given(
    st.lists(WORDS | WORDS.map(str.capitalize) | st.integers(0, 99999).map(str), max_size=30),
    st.sampled_from(" -_/."),
)
def test_words_and_numbers_are_no_keys(words: list[str], between: str) -> None:
    """However words and numbers are joined, they make no key."""
    text = between.join(words)
    assert not looks_like_key(text)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 60_000 + "1a1",
        "aB" * 30_000 + "1",
        "sk-" * 20_000,
        "-----BEGIN " * 6_000,
        "?a" * 30_000,
        "://a:" * 12_000,
    ],
)
def test_no_text_is_slow_to_scan(text: str) -> None:
    """The scan is linear, whatever a tenant writes."""
    started = time.process_time()
    looks_like_key(text)
    assert time.process_time() - started < SCAN_SECONDS_MAX


CHUNKS = st.sampled_from([*KEYS.values(), *HARMLESS]) | st.text(string.printable, max_size=40)


@given(st.lists(CHUNKS, max_size=4), st.sampled_from(["\n", "\t", " \u2003"]))
def test_what_stands_around_a_text_does_not_matter(texts: list[str], space: str) -> None:
    """A key is in several texts with space between them when it is in one of them."""
    assert looks_like_key(space.join(texts)) == any(map(looks_like_key, texts))


@given(st.lists(CHUNKS, max_size=4), st.dictionaries(CHUNKS, CHUNKS, max_size=3))
def test_a_message_is_scanned_like_each_of_its_strings(texts: list[str], entries: dict[str, str]) -> None:
    """Nothing is found in a message that is in none of its strings, and nothing is missed."""
    config = AgentConfig(prompt_config={"dynamic_vars": entries})
    config.schema_config.fields.add().default.struct_value.update(entries)
    config.frontend_config.fields.extend(texts)
    found = secret_literals(config)
    wrong = [key for key in entries if looks_like_key(key) or looks_like_key(entries[key])]
    assert len(found) == sum(map(looks_like_key, texts)) + 2 * len(wrong)


def test_every_string_is_scanned_and_none_repeated() -> None:
    """Violations have the paths of strings in lists, maps and JSON values; no text has the key."""
    key = KEYS["openai"]
    request = service_pb2.CreateAgentRequest(note=key, labels={"team": key})
    request.config.prompt_config.dynamic_vars["x"] = key
    field = request.config.schema_config.fields.add(field_name="a", description=f"like {key}")
    field.default.struct_value.fields["k"].list_value.values.add(string_value=key)
    field.constraints.enum_values.extend(["fine", key])
    request.config.frontend_config.fields.append("fine")
    found = secret_literals(request)
    assert {each.field for each in found} == {
        "note",
        'labels["team"]',
        'config.prompt_config.dynamic_vars["x"]',
        "config.schema_config.fields[0].description",
        'config.schema_config.fields[0].default["k"][0]',
        "config.schema_config.fields[0].constraints.enum_values[1]",
    }
    assert key not in repr(found)


def test_a_secret_as_the_key_of_a_map_is_not_in_the_path() -> None:
    """The violation stands at the map."""
    key = "AKIA" + "Q7" * 8
    [found] = secret_literals(AgentConfig(prompt_config={"dynamic_vars": {key: "x"}}))
    assert found.field == "prompt_config.dynamic_vars"
    assert key not in found.description


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("env:OPENAI_API_KEY", SecretReference(variable="OPENAI_API_KEY")),
        ("file:/run/secrets/openai", SecretReference(file="/run/secrets/openai")),
    ],
)
def test_references_are_parsed(text: str, reference: SecretReference) -> None:
    """A reference is a variable of the environment or a file."""
    assert parse_reference(text) == reference


@pytest.mark.parametrize(
    "text", ["", "env:", "env:lower", "env:A B", "env:A\n", "file:relative", "file:", KEYS["openai"]]
)
def test_what_is_no_reference_is_refused_unrepeated(text: str) -> None:
    """The error does not have the text, as it may be a key."""
    with pytest.raises(ValueError, match=r"^must be a reference to a secret: env:NAME or file:/path$"):
        parse_reference(text)

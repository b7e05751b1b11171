"""Builders by provider name: what they refuse, and what they say then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from agent_node.providers import (
    BuildContext,
    SecretResolver,
    build_llm,
    build_stt,
    build_tts,
    known_providers,
    new_context,
)
from voxplane.errors import VoxplaneError
from voxplane.v1.agent_config_pb2 import LlmConfig, SttConfig, TtsConfig


@pytest.fixture
async def no_keys() -> AsyncIterator[BuildContext]:
    """A context of a node without a key."""
    built = new_context(SecretResolver(environ={}))
    yield built
    await built.aclose()


def test_the_providers_are_known_by_name() -> None:
    """Each block says which names it takes: those of the node, and the plugins that are installed."""
    assert known_providers("llm_config") == ("offline", "openai")
    assert known_providers("stt_config") == ("cartesia", "deepgram", "openai")
    assert known_providers("tts_config") == ("cartesia", "deepgram", "offline", "openai")
    assert known_providers("vad_config") == ("silero",)
    assert known_providers("realtime_config") == ("openai",)


async def test_an_unknown_provider_is_refused_with_the_known_ones(context: BuildContext) -> None:
    """The refusal names the path and lists what the node has."""
    with pytest.raises(VoxplaneError) as caught:
        build_llm(LlmConfig(provider="nobody"), context)
    assert caught.value.reason_name == "PROVIDER_UNKNOWN"
    [violation] = caught.value.violations
    assert violation.field == "llm_config.provider"
    assert "offline, openai" in violation.description
    assert "pip" not in violation.description


async def test_a_provider_with_a_plugin_is_refused_with_the_way_to_get_it(context: BuildContext) -> None:
    """For a name that LiveKit has a plugin for, the refusal holds the pip command."""
    with pytest.raises(VoxplaneError, match=r"pip install livekit-plugins-anthropic==1\.8\.9"):
        build_llm(LlmConfig(provider="anthropic"), context)


async def test_a_missing_key_is_refused_at_its_path(no_keys: BuildContext) -> None:
    """Without a reference in the config the vendor's usual variable is looked for."""
    for build, path, name in (
        (lambda: build_llm(LlmConfig(provider="openai"), no_keys), "llm_config.api_key", "OPENAI_API_KEY"),
        (lambda: build_tts(TtsConfig(provider="openai"), no_keys), "tts_config.api_key", "OPENAI_API_KEY"),
        (
            lambda: build_stt(SttConfig(provider="deepgram"), no_keys),
            "stt_config.api_key",
            "DEEPGRAM_API_KEY",
        ),
    ):
        with pytest.raises(VoxplaneError, match=name) as caught:
            build()
        assert caught.value.reason_name == "SECRET_UNAVAILABLE"
        assert caught.value.violations[0].field == path


async def test_settings_that_a_vendor_does_not_take_are_refused(context: BuildContext) -> None:
    """A speed outside of Deepgram's range is refused at its path."""
    with pytest.raises(VoxplaneError) as caught:
        build_tts(TtsConfig(provider="deepgram", speed=3.0), context)
    assert caught.value.reason_name == "BUILD_FAILED"
    assert caught.value.violations[0].field == "tts_config.speed"


async def test_what_a_plugin_raises_becomes_build_failed_without_its_text(context: BuildContext) -> None:
    """A foreign error's text may hold anything, so that only its type is told."""
    with pytest.raises(VoxplaneError) as caught:
        build_llm(LlmConfig(provider="openai", base_url="http://host:port-with-secret/"), context)
    assert caught.value.reason_name == "BUILD_FAILED"
    assert caught.value.violations[0].field == "llm_config"
    assert "secret" not in caught.value.message


async def test_building_does_not_hold_up_the_loop() -> None:
    """A hundred models of many keys are built in a few milliseconds each."""
    context = new_context(SecretResolver(environ={f"K{i}_API_KEY": "x" * 20 for i in range(100)}))
    first = build_llm(LlmConfig(provider="openai", api_key="env:K0_API_KEY"), context)
    began = time.perf_counter()
    models = [
        build_llm(LlmConfig(provider="openai", api_key=f"env:K{i}_API_KEY"), context) for i in range(100)
    ]
    assert (time.perf_counter() - began) / 100 < 0.01
    await asyncio.gather(first.aclose(), *(model.aclose() for model in models))
    assert len(context.clients) == 0
    await context.aclose()

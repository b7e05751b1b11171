"""Plugins by their name, and a config's fields and options as their arguments; nothing is called."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import struct_pb2
from livekit.agents import stt, tts
from livekit.plugins import cartesia

from agent_node.providers import (
    BuildContext,
    SecretResolver,
    build_llm,
    build_realtime,
    build_stt,
    build_tts,
    build_vad,
    new_context,
)
from tests.unit.providers.conftest import KEYS
from voxplane.errors import Violation, VoxplaneError
from voxplane.v1.agent_config_pb2 import (
    AgentConfig,
    LlmConfig,
    RealtimeConfig,
    SttConfig,
    TtsConfig,
    VadConfig,
)
from voxplane.validation import check_config

CHILD_SECONDS_MAX = 100


def options(**values: Any) -> struct_pb2.Struct:
    """The options of a block."""
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


def refused(build: Callable[[], object], reason: str = "BUILD_FAILED") -> list[Violation]:
    """What is wrong with the config."""
    with pytest.raises(VoxplaneError) as caught:
        build()
    assert caught.value.reason_name == reason
    return list(caught.value.violations)


def said(violations: list[Violation]) -> dict[str, str]:
    """By path."""
    return {each.field: each.description for each in violations}


async def test_a_plugin_gets_the_fields_and_options_of_the_config(context: BuildContext) -> None:
    """Voice, model, speed, address and options become the constructor's arguments, on the job's session."""
    model = build_tts(
        TtsConfig(
            provider="cartesia",
            model="sonic-2",
            voice="v-1",
            speed=1.25,
            base_url="https://proxy.test",
            options=options(emotion="Happy", sample_rate=16000, word_timestamps=False),
        ),
        context,
    )
    assert isinstance(model, cartesia.TTS)
    assert model.model == "sonic-2"
    assert model.sample_rate == 16000
    set_to: Any = model._opts  # pyright: ignore[reportPrivateUsage]
    assert (set_to.voice, set_to.speed, set_to.emotion[0]) == ("v-1", 1.25, "Happy")
    assert (set_to.base_url, set_to.api_key) == ("https://proxy.test", KEYS["CARTESIA_API_KEY"])
    assert model._session is context.http_session()  # pyright: ignore[reportPrivateUsage]
    await model.aclose()


async def test_a_plugin_for_speech_to_text_gets_language_and_keyterms(context: BuildContext) -> None:
    """The fields go by the names that the plugin has for them."""
    config = SttConfig(
        provider="cartesia", language="en-GB", keyterms=["Voxplane"], api_key="env:SECOND_API_KEY"
    )
    model: Any = build_stt(config, context)
    assert isinstance(model, cartesia.STT)
    assert model._language == "en-GB"
    assert model._keyterm == ["Voxplane"]
    assert model._api_key == KEYS["SECOND_API_KEY"]
    assert model._session is context.http_session()
    await model.aclose()


async def test_each_wrong_option_is_named_with_what_would_be_right(context: BuildContext) -> None:
    """All violations come at once, each at its path."""
    config = TtsConfig(
        provider="cartesia",
        instructions="Warmly.",
        options=options(
            encoding="mp3",
            volume="loud",
            nope=1,
            http_session={},
            tokenizer="x",
            voice="v",
            api_key="env:X_KEY",
        ),
    )
    found = said(refused(lambda: build_tts(config, context)))
    path = "tts_config.options"
    assert found.keys() == {
        "tts_config.instructions",
        *(
            f"{path}.{name}"
            for name in ("encoding", "volume", "nope", "http_session", "tokenizer", "voice", "api_key")
        ),
    }
    assert found["tts_config.instructions"] == "cartesia.TTS has no such setting"
    assert found[f"{path}.encoding"] == "must be one of 'pcm_s16le'"
    assert found[f"{path}.volume"] == "must be a number or null"
    assert "it has add_phoneme_timestamps" in found[f"{path}.nope"]
    assert "tokenizer" not in found[f"{path}.nope"]
    assert "node's to give" in found[f"{path}.http_session"]
    assert "node's to give" in found[f"{path}.tokenizer"]
    assert found[f"{path}.voice"] == "is said by tts_config.voice"
    assert found[f"{path}.api_key"] == "is said by tts_config.api_key"


async def test_options_of_the_nodes_own_providers_are_checked_the_same_way(context: BuildContext) -> None:
    """OpenAI, Deepgram, silero and the offline models refuse what their constructors do not have."""
    wrong = options(nope=True)
    for build, path in (
        (lambda: build_llm(LlmConfig(provider="openai", options=wrong), context), "llm_config"),
        (lambda: build_llm(LlmConfig(provider="offline", options=wrong), context), "llm_config"),
        (lambda: build_stt(SttConfig(provider="openai", options=wrong), context), "stt_config"),
        (lambda: build_stt(SttConfig(provider="deepgram", options=wrong), context), "stt_config"),
        (lambda: build_tts(TtsConfig(provider="openai", options=wrong), context), "tts_config"),
        (lambda: build_tts(TtsConfig(provider="deepgram", options=wrong), context), "tts_config"),
        (lambda: build_tts(TtsConfig(provider="offline", options=wrong), context), "tts_config"),
        (lambda: build_vad(VadConfig(options=wrong), context), "vad_config"),
        (
            lambda: build_realtime(RealtimeConfig(provider="openai", options=wrong), context),
            "realtime_config",
        ),
    ):
        assert list(said(refused(build))) == [f"{path}.options.nope"]


async def test_what_a_block_says_itself_is_no_option(context: BuildContext) -> None:
    """Timeouts and retries are the block's, and so are model, key and address."""
    given = options(timeout=3, max_retries=1, base_url="http://x", model="y", client=None)
    found = said(refused(lambda: build_llm(LlmConfig(provider="openai", options=given), context)))
    assert found["llm_config.options.timeout"] == "is said by llm_config.timeout"
    assert found["llm_config.options.max_retries"] == "is said by llm_config.max_retries"
    assert found["llm_config.options.base_url"] == "is said by llm_config.base_url"
    assert found["llm_config.options.model"] == "is said by llm_config.model"
    assert "node's to give" in found["llm_config.options.client"]


async def test_a_config_cannot_name_a_file_of_the_node(context: BuildContext) -> None:
    """Silero's model is the wheel's, whatever file there may be."""
    config = VadConfig(options=options(onnx_file_path="/etc/passwd", deactivation_threshold=-1))
    found = said(refused(lambda: build_vad(config, context)))
    assert "names a file" in found["vad_config.options.onnx_file_path"]
    assert found["vad_config.options.deactivation_threshold"] == "must be above 0"


async def test_a_secret_option_takes_a_reference_and_nothing_else(context: BuildContext) -> None:
    """A literal is refused without being repeated; a reference is resolved as every other one."""
    literal = RealtimeConfig(provider="openai", options=options(entra_token="hunter2hunter2"))
    [violation] = refused(lambda: build_realtime(literal, context))
    assert violation.field == "realtime_config.options.entra_token"
    assert "env:NAME" in violation.description
    assert "hunter2" not in violation.description

    missing = RealtimeConfig(provider="openai", options=options(entra_token="env:MISSING_TOKEN"))
    [violation] = refused(lambda: build_realtime(missing, context), "SECRET_UNAVAILABLE")
    assert violation.field == "realtime_config.options.entra_token"


def test_a_key_in_the_options_is_refused_when_the_config_is_written() -> None:
    """No node ever sees it, wherever in the options it stands."""
    key = "sk-" + "proj-" + "9fKq2LmX7vTzR4wY8bNcD3hJ"
    config = AgentConfig(llm_config=LlmConfig(provider="openai"))
    config.llm_config.options.update({"extra_headers": {"Authorization": f"Bearer {key}"}})
    config.tts_config.provider = "cartesia"
    config.tts_config.fallbacks.add(provider="openai").options.update({"list": [key]})
    with pytest.raises(VoxplaneError) as caught:
        check_config(config)
    assert caught.value.reason_name == "SECRET_LITERAL"
    assert {each.field for each in caught.value.violations} == {
        'llm_config.options["extra_headers"]["Authorization"]',
        'tts_config.fallbacks[0].options["list"][0]',
    }
    assert key not in repr(caught.value.violations)


async def test_a_plugin_without_the_class_says_so(context: BuildContext) -> None:
    """The refusal tells an installed plugin that lacks the class from one that is not installed."""
    [lacks] = refused(lambda: build_llm(LlmConfig(provider="cartesia"), context), "PROVIDER_UNKNOWN")
    assert lacks.field == "llm_config.provider"
    assert "livekit-plugins-cartesia is installed, but has no LLM" in lacks.description

    chain = TtsConfig(
        provider="openai", fallbacks=[TtsConfig(provider="offline"), TtsConfig(provider="elevenlabs")]
    )
    [absent] = refused(lambda: build_tts(chain, context), "PROVIDER_UNKNOWN")
    assert absent.field == "tts_config.fallbacks[1].provider"
    assert "pip install livekit-plugins-elevenlabs==1.8.9" in absent.description
    await asyncio.gather(*context._closing)  # pyright: ignore[reportPrivateUsage]


async def test_a_name_may_lead_into_a_plugin(context: BuildContext) -> None:
    """openai.responses is the LLM of OpenAI's other protocol, on its own options."""
    model = build_llm(LlmConfig(provider="openai.responses", options=options(use_websocket=False)), context)
    assert type(model).__module__ == "livekit.plugins.openai.responses.llm"
    await model.aclose()


def build_off_the_main_thread() -> str:
    """As the node checks a config: on a thread, on a loop of its own."""

    async def build() -> tuple[stt.STT[Any], tts.TTS[Any]]:
        context = new_context(SecretResolver(environ=KEYS))
        try:
            return (
                build_stt(SttConfig(provider="cartesia"), context),
                build_tts(TtsConfig(provider="cartesia"), context),
            )
        finally:
            await context.aclose()

    return " ".join(type(model).__module__ for model in asyncio.run(build()))


CARTESIA = "livekit.plugins.cartesia.stt livekit.plugins.cartesia.tts"


async def test_a_plugin_is_built_on_a_thread() -> None:
    """LiveKit lets plugins register on the main thread alone; they have been, before any check."""
    assert await asyncio.to_thread(build_off_the_main_thread) == CARTESIA


FORK_SERVER = """
import multiprocessing
from tests.unit.providers.test_plugin_options import CHILD_SECONDS_MAX, build_off_the_main_thread

if __name__ == "__main__":
    jobs = multiprocessing.get_context("forkserver")
    jobs.set_forkserver_preload(["agent_node.providers"])
    with jobs.Pool(1) as pool:
        print(pool.apply_async(build_off_the_main_thread).get(CHILD_SECONDS_MAX))
"""


def test_a_job_has_the_plugins_of_its_fork_server(tmp_path: Path) -> None:
    """A job is a child of the fork server, which has imported them. It is in a process of its own, as a
    process has but one fork server."""
    program = tmp_path / "program.py"
    program.write_text(FORK_SERVER)
    environ = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    ran = subprocess.run(
        (sys.executable, str(program)), env=environ, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == CARTESIA


BROKEN = """
import asyncio
from agent_node.providers import BuildContext, build_tts, known_providers, new_context
from voxplane.errors import VoxplaneError
from voxplane.v1.agent_config_pb2 import TtsConfig

async def main():
    assert "openai" in known_providers("tts_config")
    try:
        build_tts(TtsConfig(provider="unfit"), new_context())
    except VoxplaneError as error:
        print(error.message)

asyncio.run(main())
"""


def test_a_plugin_that_cannot_be_imported_does_not_keep_a_node_from_starting(tmp_path: Path) -> None:
    """It is unknown, with the reason; all others are there."""
    plugin = tmp_path / "livekit" / "plugins" / "unfit"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text("import a_module_that_is_missing\n")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path.cwd())])}
    ran = subprocess.run(
        (sys.executable, "-c", BROKEN), env=environ, capture_output=True, text=True, check=True
    )
    assert "livekit-plugins-unfit is installed, but importing it fails with ModuleNotFoundError" in ran.stdout

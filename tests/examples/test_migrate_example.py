"""A hard-coded agent becomes a config."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from google.protobuf import json_format
from pydantic import BaseModel, Field

from examples.migration.models import KEYS
from examples.migration.reading import Reading, Wishes, load, read
from examples.migration.replies import fields_of
from tests.unit.watch.watch_server import WatchServer, watch_server
from voxplane.cli.files import parse_config
from voxplane.v1 import agent_service_pb2 as agents_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.validation import check_config, violations_of_message

ROOT = Path(__file__).parents[2]
EXAMPLE = "examples/migrate_hardcoded_agent.py"
PTE = "examples/hardcoded/pte_interview.py:PteInterviewer"
SUPPORT = "tests/examples/agents/support.py:Support"
SECONDS_MAX = 60.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[WatchServer]:
    """A control plane."""
    async with watch_server(tmp_path) as running:
        yield running


async def _run(*arguments: str) -> tuple[int, str]:
    """The example's exit code, and what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, EXAMPLE, *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    return process.returncode or 0, said.decode()


async def _migrate(server: WatchServer, *flags: str, source: str = PTE) -> str:
    code, said = await _run(source, "--server", server.address, "--tenant", "acme", *flags)
    assert code == 0, said
    return said


async def _config(server: WatchServer) -> AgentConfig:
    request = agents_pb2.GetAgentVersionRequest(tenant_id="acme", agent_id="pte-interview", alias="live")
    return (await server.agents.GetAgentVersion(request)).version.config


async def test_the_class_becomes_a_config(server: WatchServer) -> None:
    """The difference is shown before anything is written; then the agent has the
    class' instructions, models, first words and fields, and there is nothing left to change."""
    shown = await _migrate(server)
    assert "schema_config" in shown
    assert "--write makes them" in shown
    listed = await server.agents.ListAgents(agents_pb2.ListAgentsRequest(tenant_id="acme"))
    assert not listed.agents
    assert "created, version 1, revision 1" in await _migrate(server, "--write", "--yes")
    config = await _config(server)
    assert config.prompt_config.instructions.startswith("You are an interviewer")
    assert (config.stt_config.provider, config.stt_config.model) == ("deepgram", "nova-3")
    assert (config.llm_config.model, config.llm_config.temperature) == ("gpt-4o-mini", 0.3)
    assert (config.tts_config.voice, config.tts_config.instruction_field) == ("ash", "voice_instructions")
    assert config.tts_config.api_key == "env:OPENAI_API_KEY"
    assert config.session_config.greeting_instructions == "Welcome the candidate and ask for the full name."
    fields = {field.field_name: field for field in config.schema_config.fields}
    assert [name for name, field in fields.items() if field.metadata.use_in_tts] == ["response"]
    assert [name for name, field in fields.items() if not field.required] == [
        "fluency",
        "pronunciation",
        "mistakes",
    ]
    assert fields["part"].constraints.enum_values[0] == "introduction"
    assert (fields["fluency"].constraints.minimum, fields["fluency"].constraints.maximum) == (10, 90)
    assert fields["response"].description == "What the interviewer says."
    agent = await server.agents.GetAgent(
        agents_pb2.GetAgentRequest(tenant_id="acme", agent_id="pte-interview")
    )
    assert agent.agent.display_name == "Interviews a candidate for the speaking part of the PTE exam."
    assert "nothing to change" in await _migrate(server)


async def test_a_changed_config_is_shown_and_taken_back(server: WatchServer) -> None:
    """What was changed since is shown by its paths, and written over if that is
    wanted; blocks that the class does not have stay."""
    await _migrate(server, "--write", "--yes")
    request = agents_pb2.UpdateAgentConfigRequest(tenant_id="acme", agent_id="pte-interview")
    request.config.tts_config.voice = "coral"
    request.config.limits_config.silence_timeout.FromSeconds(60)
    request.update_mask.paths.extend(["tts_config.voice", "limits_config"])
    await server.agents.UpdateAgentConfig(request)
    shown = await _migrate(server)
    assert "tts_config.voice\n  - 'coral'\n  + 'ash'" in shown
    assert "updated, version 3, revision 3" in await _migrate(server, "--write", "--yes")
    config = await _config(server)
    assert config.tts_config.voice == "ash"
    assert config.limits_config.silence_timeout.seconds == 60


async def test_nothing_is_written_unasked(server: WatchServer) -> None:
    """Without --yes it asks, and where nobody can answer it says so and writes nothing."""
    code, said = await _run(PTE, "--server", server.address, "--tenant", "acme", "--write")
    assert (code, "--yes" in said) == (2, True)
    listed = await server.agents.ListAgents(agents_pb2.ListAgentsRequest(tenant_id="acme"))
    assert not listed.agents


async def test_a_refusal_is_told_before_anything_is_written(server: WatchServer) -> None:
    """The control plane judges the config in a dry run; its paths are shown."""
    code, said = await _run(PTE, "--server", server.address, "--tenant", "Not An Id")
    assert code == 1
    assert "tenant_id: " in said


@pytest.fixture(scope="module")
def loading() -> Iterator[None]:
    """What the example does to the process to import an agent is undone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])
        for variable in (*KEYS.values(), "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET"):
            patch.setenv(variable, "not-used")
        yield


@pytest.fixture(scope="module")
def support(loading: None) -> Reading:
    """An agent with one of everything, and its tools served."""
    wishes = Wishes(reply="Reply", tools_url="https://tools.acme.example")
    return read(load(ROOT / "tests/examples/agents/support.py"), "Support", wishes)


def test_what_is_read_is_a_valid_config(support: Reading) -> None:
    """The config passes all checks."""
    config = support.config
    assert not violations_of_message(config)
    check_config(config)


def test_constructor_arguments_become_variables(support: Reading) -> None:
    """A text that the constructor wants is a variable of the prompt; other braces
    stay what they were; one that the instructions do not hold is told."""
    config, told = support.config, "\n".join(support.notes)
    instructions = config.prompt_config.instructions
    assert instructions.startswith("Help {{ caller_name }}{% raw %} of Acme. Never write {{ or }}.")
    assert dict(config.prompt_config.dynamic_vars) == {"caller_name": ""}
    assert "ticket: the constructor wants it" in told


def test_models_of_agent_and_session_are_joined(support: Reading) -> None:
    """The agent's own models go before the session's; options that are no block's
    own go to `options`, and defaults and keys nowhere."""
    config, told = support.config, "\n".join(support.notes)
    assert (config.stt_config.provider, config.stt_config.language) == ("openai", "de")
    assert (config.tts_config.provider, config.tts_config.model) == ("deepgram", "aura-2-thalia-en")
    llm = config.llm_config
    assert (llm.base_url, llm.max_output_tokens) == ("http://127.0.0.1:9/v1", 300)
    assert json_format.MessageToDict(llm.options) == {"top_p": 0.5}
    assert not config.tts_config.HasField("options")
    assert config.vad_config.min_silence_duration.ToMilliseconds() == 400
    assert config.turn_config.min_endpointing_delay.ToMilliseconds() == 700
    assert config.turn_config.allow_interruptions is False
    assert "preemptive_generation" in told
    assert "not-used" not in told


def test_first_words_and_tools_are_read(support: Reading) -> None:
    """What on_enter says first is the greeting; a function tool is declared at the
    address of --tools-url, an MCP server by its own, without its headers."""
    config, told = support.config, "\n".join(support.notes)
    assert config.session_config.greeting == "Acme, good morning!"
    assert "is a second beginning" in told
    (tool,) = config.tools
    assert (tool.name, tool.url) == ("order_status", "https://tools.acme.example/order_status")
    assert tool.description == "Looks up an order."
    parameters = json_format.MessageToDict(tool.parameters)
    assert parameters["required"] == ["number"]
    assert parameters["properties"]["number"]["description"] == "The order's number."
    (mcp,) = config.mcp_servers
    assert (mcp.name, mcp.url) == ("shop-tools", "http://127.0.0.1:9/mcp")
    assert "headers may hold a secret" in told


def test_what_a_config_cannot_hold_is_told(support: Reading) -> None:
    """Fields without a type, limits without a counterpart, code of turns and what
    is known only in a call are named, each with why."""
    config, told = support.config, "\n".join(support.notes)
    names = [field.field_name for field in config.schema_config.fields]
    assert "either" not in names
    assert "anything" not in names
    for said in (
        "Reply.either is left out: a field has one type, not str or int",
        "Reply.anything is left out: a schema has no type for dict[str, typing.Any]",
        "Reply.rating: MultipleOf(multiple_of=5) has no counterpart",
        "AgentSession(userdata=caller) is known only when it runs",
        "on_user_turn_completed(): ",
    ):
        assert said in told


async def test_the_config_as_a_file() -> None:
    """With --yaml the config alone is printed, which `voxplane agents create -f`
    takes, and the notes go to standard error; without --tools-url a function tool
    is not in it, and that is said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, EXAMPLE, SUPPORT, "--yaml", "--reply", "Reply"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, told = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    assert process.returncode == 0
    config = parse_config(said.decode(), "the example")
    assert config.schema_config.schema_id == "Reply"
    assert not config.tools
    assert "tool order_status: it is Python" in told.decode()


@pytest.mark.parametrize(
    ("name", "wishes", "said"),
    [
        ("Nobody", Wishes(), "its agents: PteInterviewer"),
        ("PteInterviewer", Wishes(reply="Nothing"), "it has PteReply"),
        ("PteInterviewer", Wishes(spoken="part"), "the texts of PteReply are voice_instructions, response"),
    ],
)
def test_wrong_wishes_are_explained(loading: None, name: str, wishes: Wishes, said: str) -> None:
    """A name that is not there is answered with those that are."""
    module = load(ROOT / "examples/hardcoded/pte_interview.py")
    with pytest.raises(SystemExit, match=said):
        read(module, name, wishes)


def test_a_file_that_is_not_there_is_named() -> None:
    """A path that leads nowhere is said to be no Python file."""
    with pytest.raises(SystemExit, match="none is no Python file"):
        load(Path("none"))


class Inner(TypedDict):
    name: str
    kind: Literal["a", "b"]
    size: NotRequired[int]


class Whole(TypedDict):
    plain: str
    optional: float | None
    either_number: int | float
    choice: Literal["yes", "no", None]
    counts: list[Literal["one", "two"]]
    inner: Inner
    nested: list[Inner]
    limited: Annotated[float, Field(gt=0, lt=1), "How sure."]
    times: tuple[int, ...]


class Model(BaseModel):
    """A reply.

    Attributes:
        said (str): What is said.
    """

    said: str
    mood: Literal["calm", "angry"] = "calm"
    score: int = Field(default=3, ge=1, le=5, description="The score.")
    tags: list[str] = Field(default_factory=list)
    later: str | None = None


def _read(reply: type) -> tuple[dict[str, Any], list[str]]:
    notes: list[str] = []
    fields = fields_of(reply, notes)
    read = [json_format.MessageToDict(each, preserving_proto_field_name=True) for each in fields]
    return {each.pop("field_name"): each for each in read}, notes


def test_every_shape_of_a_typeddict() -> None:
    """Each hint becomes a field of the schema or is told of, and what changes its meaning too."""
    fields, notes = _read(Whole)
    assert fields["plain"] == {"field_type": "string", "required": True}
    assert fields["optional"] == {"field_type": "number"}
    assert fields["either_number"] == {"field_type": "number", "required": True}
    assert fields["choice"] == {"field_type": "enum", "constraints": {"enum_values": ["yes", "no"]}}
    assert fields["counts"] == {"field_type": "array", "item_type": "string", "required": True}
    assert [part["property_name"] for part in fields["inner"]["properties"]] == ["name", "kind", "size"]
    assert fields["limited"] == {"field_type": "number", "required": True, "description": "How sure."}
    assert fields["times"] == {"field_type": "array", "item_type": "integer", "required": True}
    assert "nested" not in fields
    assert notes == [
        "Whole.counts: its items are any text, no longer only one, two",
        "Whole.inner: kind is any text, no longer one of its values",
        "Whole.inner: size is required from now on, as all properties of objects are",
        "Whole.nested is left out: a list of Inner: items are string, integer, number or boolean",
        "Whole.limited: Gt(gt=0) has no counterpart",
        "Whole.limited: Lt(lt=1) has no counterpart",
    ]


def test_a_model_brings_its_defaults() -> None:
    """A pydantic model's fields with a default are optional, with that default; one
    that a function makes is told."""
    fields, notes = _read(Model)
    assert fields["said"] == {"field_type": "string", "required": True, "description": "What is said."}
    assert fields["mood"]["default"] == "calm"
    assert fields["score"] == {
        "field_type": "integer",
        "description": "The score.",
        "default": 3.0,
        "constraints": {"minimum": 1.0, "maximum": 5.0},
    }
    assert fields["tags"] == {"field_type": "array", "item_type": "string"}
    assert fields["later"] == {"field_type": "string"}
    assert notes == ["Model.tags: its default is made by a function, and not carried over"]

"""The contract's rules, each with the path that its violation names."""

from __future__ import annotations

import keyword
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from voxplane.v1 import agent_service_pb2 as service_pb2
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import node_service_pb2 as nodes_pb2
from voxplane.validation import violations_of_message


def words(text: str) -> set[str]:
    """The words of a text."""
    return set(text.split())


PYTHON = {*keyword.kwlist}
JAVASCRIPT = words(
    "arguments await break case catch class const continue debugger default delete do else enum eval export"
    " extends false finally for function if implements import in instanceof interface let new null package"
    " private protected public return static super switch this throw true try typeof var void while with"
    " yield async undefined"
)
GO = words(
    "break case chan const continue default defer else fallthrough for func go goto if import interface map"
    " package range return select struct switch type var"
)
JAVA = words(
    "abstract assert boolean break byte case catch char class const continue default do double else enum"
    " extends final finally float for goto if implements import instanceof int interface long native new"
    " package private protected public return short static strictfp super switch synchronized this throw"
    " throws transient try void volatile while true false null"
)


def paths(message: Message) -> list[str]:
    """The paths of the message's violations."""
    return [each.field for each in violations_of_message(message)]


def create(**config: Any) -> service_pb2.CreateAgentRequest:
    """A request to create an agent with this config, as JSON."""
    request = service_pb2.CreateAgentRequest(tenant_id="demo", agent_id="interviewer")
    json_format.ParseDict(config, request.config)
    request.config.SetInParent()
    return request


def schema(*fields: dict[str, Any], **config: Any) -> service_pb2.CreateAgentRequest:
    """The same with a schema of these fields, which are strings if they do not say."""
    named = [
        {"field_name": f"f{index}", "field_type": "string"} | field for index, field in enumerate(fields)
    ]
    return create(schema_config={"fields": named}, **config)


def test_a_full_config_breaks_no_rule() -> None:
    """Everything that the contract offers can be used together."""
    request = schema(
        {"field_name": "system_response", "required": True, "metadata": {"use_in_tts": True}},
        {"field_name": "voice_instructions", "constraints": {"max_length": 300}},
        {"field_type": "enum", "constraints": {"enum_values": ["a", "b"]}, "default": "a"},
        {"field_type": "integer", "constraints": {"minimum": 0, "maximum": 10}},
        {"field_type": "number"},
        {"field_type": "boolean", "metadata": {"hidden": True}},
        {"field_type": "array", "item_type": "string", "constraints": {"min_items": 1, "max_items": 3}},
        {"field_type": "object", "properties": [{"property_name": "p", "property_type": "number"}]},
        agent_type="interview",
        version="1.2.0",
        prompt_config={"instructions": "Hi {{ name }}", "dynamic_vars": {"name": "you"}},
        stt_config={"provider": "deepgram", "language": "en-US", "api_key": "env:DEEPGRAM_API_KEY"},
        llm_config={
            "provider": "openai",
            "temperature": 0.7,
            "api_key": "file:/run/secrets/openai",
            "base_url": "https://proxy.example.com:8443/v1",
            "timeout": "20s",
            "max_retries": 2,
        },
        tts_config={"provider": "openai", "instruction_field": "voice_instructions", "speed": 1.5},
        realtime_config={"enabled": False},
        turn_config={"min_endpointing_delay": "0.5s", "max_endpointing_delay": "3s", "turn_detection": "vad"},
        tracing_config={"enabled": True, "provider": "langfuse", "sample_rate": 0.5},
        frontend_config={"rpc_method": "voxplane.fields", "fields": ["system_response", "f3"]},
        limits_config={"max_session_duration": "3600s", "silence_timeout": "60s"},
    )
    assert violations_of_message(request) == []


@pytest.mark.parametrize(
    "tenant_id", ["", "Demo", "1demo", "-demo", "a" * 64, "a b", "a/b", "démo", "demo\n", "-"]
)
def test_ids_of_tenants_and_agents(tenant_id: str) -> None:
    """An id is of a-z, 0-9, - and _, begins with a-z and has at most 63 characters."""
    assert paths(service_pb2.GetAgentRequest(tenant_id=tenant_id, agent_id="a")) == ["tenant_id"]
    assert paths(service_pb2.GetAgentRequest(tenant_id="t", agent_id=tenant_id)) == ["agent_id"]


@pytest.mark.parametrize("good", ["a", "a" * 63, "acme-eu_2"])
def test_good_ids(good: str) -> None:
    """Ids up to 63 characters pass."""
    assert paths(service_pb2.GetAgentRequest(tenant_id=good, agent_id=good)) == []


@pytest.mark.parametrize("word", sorted(PYTHON | JAVASCRIPT | GO | JAVA))
def test_field_names_are_no_keywords(word: str) -> None:
    """A keyword of Python, JavaScript, Go or Java is refused as the name of a field."""
    assert paths(schema({}, {"field_name": word})) == ["config.schema_config.fields[1].field_name"]


@pytest.mark.parametrize(
    "name", ["", "_hidden", "__class__", "1st", "a-b", "a.b", "a b", "a" * 64, "naïve", "名前", "a\n", "$a"]
)
def test_field_names_are_identifiers(name: str) -> None:
    """What is no identifier in all languages, or begins with an underscore, is refused."""
    assert paths(schema({}, {"field_name": name})) == ["config.schema_config.fields[1].field_name"]


@pytest.mark.parametrize("name", ["a", "camelCase", "snake_case_2", "Class", "iff", "a" * 63])
def test_good_field_names(name: str) -> None:
    """Names that only look like keywords pass."""
    assert paths(schema({"field_name": name})) == []


ARRAY = {"field_type": "array", "item_type": "string"}
INTEGER = {"field_type": "integer"}
OBJECT = {"field_type": "object", "properties": [{"property_name": "p", "property_type": "string"}]}


@pytest.mark.parametrize(
    ("field", "path"),
    [
        ({"field_name": "f0"}, "field_name"),
        ({"field_type": ""}, "field_type"),
        ({"field_type": "str"}, "field_type"),
        ({"field_type": "date"}, "field_type"),
        (INTEGER | {"metadata": {"use_in_tts": True}}, "metadata.use_in_tts"),
        (ARRAY | {"metadata": {"use_in_tts": True}}, "metadata.use_in_tts"),
        ({"field_type": "array"}, "item_type"),
        ({"item_type": "string"}, "item_type"),
        (ARRAY | {"item_type": "object"}, "item_type"),
        ({"field_type": "object"}, "properties"),
        ({"properties": OBJECT["properties"]}, "properties"),
        (OBJECT | {"properties": OBJECT["properties"] * 2}, "properties"),
        (
            OBJECT | {"properties": [{"property_name": "_p", "property_type": "string"}]},
            "properties[0].property_name",
        ),
        (
            OBJECT | {"properties": [{"property_name": "p", "property_type": "array"}]},
            "properties[0].property_type",
        ),
        ({"field_type": "enum"}, "constraints.enum_values"),
        ({"constraints": {"enum_values": ["a"]}}, "constraints.enum_values"),
        ({"field_type": "enum", "constraints": {"enum_values": ["a", "a"]}}, "constraints.enum_values"),
        ({"field_type": "enum", "constraints": {"enum_values": ["a", ""]}}, "constraints.enum_values[1]"),
        ({"constraints": {"minimum": 1}}, "constraints.minimum"),
        ({"constraints": {"maximum": 0}}, "constraints.maximum"),
        (INTEGER | {"constraints": {"minimum": 2, "maximum": 1}}, "constraints.minimum"),
        (INTEGER | {"constraints": {"minimum": "NaN"}}, "constraints.minimum"),
        (INTEGER | {"constraints": {"min_length": 0}}, "constraints.min_length"),
        (INTEGER | {"constraints": {"max_length": 1}}, "constraints.max_length"),
        (INTEGER | {"constraints": {"pattern": "a"}}, "constraints.pattern"),
        ({"constraints": {"min_length": 2, "max_length": 1}}, "constraints.min_length"),
        ({"constraints": {"min_items": 1}}, "constraints.min_items"),
        ({"constraints": {"max_items": 1}}, "constraints.max_items"),
        (ARRAY | {"constraints": {"min_items": 2, "max_items": 1}}, "constraints.min_items"),
        ({"description": "x" * 2001}, "description"),
    ],
)
def test_fields_of_a_schema(field: dict[str, Any], path: str) -> None:
    """Types, and what belongs to each of them alone."""
    assert paths(schema({}, field)) == [f"config.schema_config.fields[1].{path}"]


def test_each_duplicate_is_named() -> None:
    """The first field of a name may keep it."""
    request = schema({"field_name": "a"}, {"field_name": "b"}, {"field_name": "a"}, {"field_name": "a"})
    assert paths(request) == [
        "config.schema_config.fields[2].field_name",
        "config.schema_config.fields[3].field_name",
    ]


SECRET_FIELDS = (
    "stt_config.api_key",
    "llm_config.api_key",
    "tts_config.api_key",
    "realtime_config.api_key",
    "tracing_config.public_key",
    "tracing_config.secret_key",
)
URL_FIELDS = tuple(
    f"{block}.base_url"
    for block in ("stt_config", "llm_config", "tts_config", "realtime_config", "tracing_config")
)


def with_value(path: str, value: Any) -> service_pb2.CreateAgentRequest:
    """A config with one field of a block set, and its provider where one is needed."""
    block, name = path.split(".")
    provider = {"provider": "langfuse" if block == "tracing_config" else "openai"}
    needs = (
        provider if block not in ("turn_config", "limits_config", "frontend_config", "prompt_config") else {}
    )
    return create(**{block: needs | {name: value}})


@pytest.mark.parametrize("path", SECRET_FIELDS)
@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("", True),
        ("env:OPENAI_API_KEY", True),
        ("env:_A1", True),
        ("file:/run/secrets/openai", True),
        ("sk-abcdefghijklmnopqrstuvwxyz", False),
        ("OPENAI_API_KEY", False),
        ("env:", False),
        ("env:lower", False),
        ("env:A B", False),
        ("env:A\n", False),
        ("file:relative", False),
        ("file:/a b", False),
        ("vault:/a", False),
        (" env:A", False),
    ],
)
def test_secrets_are_references(path: str, text: str, good: bool) -> None:
    """A secret is env:NAME or file:/path, or not set; nothing else is stored."""
    request = with_value(path, text)
    assert paths(request) == ([] if good else [f"config.{path}"])
    said = [each.description for each in violations_of_message(request)]
    assert good or said == ["must be a reference to a secret: env:NAME or file:/path"]


@pytest.mark.parametrize("path", URL_FIELDS)
@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("https://api.example.com/v1", True),
        ("ws://localhost:8080", True),
        ("https://user:password@example.com", False),
        ("ftp://example.com", False),
        ("example.com", False),
        ("https://a b", False),
        ("https://a\n", False),
        ("https://" + "a" * 500, False),
    ],
)
def test_addresses(path: str, text: str, good: bool) -> None:
    """An address is an http or ws URL without a password."""
    assert paths(with_value(path, text)) == ([] if good else [f"config.{path}"])


@pytest.mark.parametrize(
    ("path", "low", "high", "below", "above"),
    [
        ("llm_config.temperature", 0, 2, -0.01, 2.01),
        ("tracing_config.sample_rate", 0, 1, -0.01, 1.01),
        ("tts_config.speed", 0.25, 4, 0.24, 4.01),
        ("llm_config.max_retries", 0, 10, None, 11),
        ("llm_config.max_output_tokens", 0, 1_000_000, None, 1_000_001),
        ("llm_config.timeout", "0.001s", "600s", "0s", "601s"),
        ("limits_config.max_session_duration", "1s", "86400s", "0s", "86401s"),
        ("limits_config.silence_timeout", "1s", "3600s", "0s", "3601s"),
        ("turn_config.min_endpointing_delay", "0s", "30s", "-1s", "31s"),
        ("turn_config.max_endpointing_delay", "0s", "60s", "-1s", "61s"),
    ],
)
def test_ranges(path: str, low: Any, high: Any, below: Any, above: Any) -> None:
    """Both ends of a range belong to it; what is beyond is refused."""
    for good in (low, high):
        assert paths(with_value(path, good)) == []
    for bad in (below, above):
        assert bad is None or paths(with_value(path, bad)) == [f"config.{path}"]


@pytest.mark.parametrize("path", ["llm_config.temperature", "tracing_config.sample_rate", "tts_config.speed"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_are_finite(path: str, value: str) -> None:
    """What is no number is within no range."""
    assert paths(with_value(path, value)) == [f"config.{path}"]


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"agent_type": "cooking"}, "agent_type"),
        ({"stt_config": {}}, "stt_config.provider"),
        ({"llm_config": {"model": "m"}}, "llm_config.provider"),
        ({"tts_config": {"voice": "v"}}, "tts_config.provider"),
        ({"llm_config": {"provider": "Open AI"}}, "llm_config.provider"),
        ({"realtime_config": {"enabled": True}}, "realtime_config.provider"),
        ({"turn_config": {"turn_detection": "magic"}}, "turn_config.turn_detection"),
        (
            {"turn_config": {"min_endpointing_delay": "4s", "max_endpointing_delay": "3s"}},
            "turn_config.min_endpointing_delay",
        ),
        ({"tracing_config": {"provider": "other"}}, "tracing_config.provider"),
        ({"schema_config": {"schema_id": "a b"}}, "schema_config.schema_id"),
        ({"frontend_config": {"rpc_method": "a b"}}, "frontend_config.rpc_method"),
        ({"prompt_config": {"dynamic_vars": {"a b": "x"}}}, 'prompt_config.dynamic_vars["a b"]'),
        ({"prompt_config": {"dynamic_vars": {"a": "x" * 4001}}}, 'prompt_config.dynamic_vars["a"]'),
        (
            {"prompt_config": {"dynamic_vars": {f"v{i}": "" for i in range(101)}}},
            "prompt_config.dynamic_vars",
        ),
        ({"prompt_config": {"instructions": "é" * 32769}}, "prompt_config.instructions"),
    ],
)
def test_blocks_of_a_config(config: dict[str, Any], path: str) -> None:
    """Fixed sets, required fields and bounds of the blocks."""
    assert paths(create(**config)) == [f"config.{path}"]


@pytest.mark.parametrize(
    ("fields", "good"),
    [
        ([{"field_name": "tone"}], True),
        ([{"field_name": "tone", "field_type": "integer"}], False),
        ([{"field_name": "other"}], False),
        ([], False),
    ],
)
def test_the_instruction_field_names_a_string_field(fields: list[dict[str, Any]], good: bool) -> None:
    """tts_config.instruction_field must be a field of the schema, of type string."""
    request = schema(*fields, tts_config={"provider": "openai", "instruction_field": "tone"})
    assert paths(request) == ([] if good else ["config.tts_config.instruction_field"])


def test_the_frontend_gets_fields_that_are_there_and_not_hidden() -> None:
    """Each name that is not among them is a violation of its own."""
    request = schema(
        {"field_name": "a"},
        {"field_name": "b", "metadata": {"hidden": True}},
        frontend_config={"fields": ["a", "b", "c"]},
    )
    assert paths(request) == ["config.frontend_config.fields[1]", "config.frontend_config.fields[2]"]


@pytest.mark.parametrize(
    ("request_message", "path"),
    [
        (service_pb2.CreateAgentRequest(tenant_id="t", agent_id="a"), "config"),
        (service_pb2.SetAliasRequest(tenant_id="t", agent_id="a", alias="A", version=1), "alias"),
        (service_pb2.SetAliasRequest(tenant_id="t", agent_id="a", alias="a"), "version"),
        (service_pb2.GetAgentVersionRequest(tenant_id="t", agent_id="a", number=0), "number"),
        (service_pb2.ListAgentsRequest(tenant_id="t", page_size=-1), "page_size"),
        (service_pb2.SetTracingRequest(tenant_id="t", agent_id="a", sample_rate=1.1), "sample_rate"),
        (service_pb2.RemoveSchemaFieldRequest(tenant_id="t", agent_id="a"), "field_name"),
        (
            service_pb2.AddSchemaFieldRequest(
                tenant_id="t", agent_id="a", field={"field_name": "class", "field_type": "string"}
            ),
            "field.field_name",
        ),
        (
            service_pb2.UpdateAgentConfigRequest(
                tenant_id="t", agent_id="a", config={}, update_mask={"paths": ["a"] * 101}
            ),
            "update_mask",
        ),
        (
            service_pb2.UpdateAgentConfigRequest(
                tenant_id="t", agent_id="a", config={}, update_mask={"paths": ["a" * 201]}
            ),
            "update_mask",
        ),
        (sync_pb2.WatchConfigRequest(tenant_id="Demo"), "tenant_id"),
        (sync_pb2.WatchConfigRequest(tenant_id="t", agent_ids=["a", "B"]), "agent_ids[1]"),
        (sync_pb2.WatchConfigRequest(tenant_id="-", node={"node_id": ""}), "node.node_id"),
        (
            sync_pb2.WatchConfigRequest(tenant_id="t", start_revisions={"t": {"number": -1}}),
            'start_revisions["t"].number',
        ),
        (sync_pb2.ReportConfigStatusRequest(stream_id="s", nonce="x"), "nonce"),
        (sync_pb2.ReportConfigStatusRequest(), "stream_id"),
        (
            sync_pb2.ReportConfigStatusRequest(stream_id="s", statuses=[{"name": "n", "etag": "e"}]),
            "statuses[0].phase",
        ),
        (
            sync_pb2.ReportConfigStatusRequest(
                stream_id="s",
                statuses=[{"name": "n", "etag": "e", "phase": 5, "error": {"message": "x" * 10_001}}],
            ),
            "statuses[0].error",
        ),
        (sync_pb2.StreamConfigStatusRequest(), "report"),
        (nodes_pb2.GetNodeRequest(), "node_id"),
        (nodes_pb2.WaitForConvergenceRequest(tenant_id="t", timeout={"seconds": 601}), "timeout"),
    ],
)
def test_requests(request_message: Message, path: str) -> None:
    """Rules of the requests themselves."""
    assert paths(request_message) == [path]

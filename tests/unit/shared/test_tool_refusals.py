"""What a tool cannot be, as it is refused when a config is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format

from voxplane.errors import VoxplaneError
from voxplane.tool_urls import split_url
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.validation import check_config, violations_of_message
from voxplane.validation_parts import are_good, unjudged_parts

PAGE = Path(__file__).parents[3] / "docs" / "tools.md"


def _config(**fields: Any) -> AgentConfig:
    tool = {
        "name": "look_up",
        "description": "Looks up.",
        "url": "https://a.example/o/{id}",
        "parameters": {"type": "object", "properties": {"id": {"type": "string"}}},
        **fields,
    }
    return json_format.ParseDict({"llm_config": {"provider": "offline"}, "tools": [tool]}, AgentConfig())


def _refused(config: AgentConfig) -> list[tuple[str, str]]:
    with pytest.raises(VoxplaneError) as raised:
        check_config(config)
    assert not are_good(unjudged_parts(config))
    return [(each.field, each.description) for each in raised.value.violations]


def test_the_example_of_the_page_is_a_good_config() -> None:
    """What docs/tools.md shows can be written as it stands there."""
    shown = PAGE.read_text().split("```yaml\n")[1].split("```")[0]
    config = json_format.ParseDict(yaml.safe_load(shown), AgentConfig())
    config.llm_config.provider = "offline"
    assert violations_of_message(config) == []
    check_config(config)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://127.1/{id}", "no IP address"),
        ("https://2130706433/{id}", "no IP address"),
        ("https://[::1/{id}", "must be an http"),
        ("https://[1::2::3]/{id}", "no IP address"),
        ("https://a..example/{id}", "no DNS name"),
        ("https://bücher.example/{id}", "must be an http"),
        ("https://a.example:0/{id}", "port"),
        ("https://a.example:99999/{id}", "port"),
        ("https://a.example/{id}/{", "brace"),
        ("https://a.example/{id}/{{id}}", "brace"),
        ("https://a.example/{other}", "does not have"),
    ],
)
def test_an_address_that_no_node_could_use_is_refused(url: str, said: str) -> None:
    """Short forms of addresses, ports that are none and stray braces are named by the url's path."""
    ((path, description),) = _refused(_config(url=url))
    assert path == "tools[0].url"
    assert said in description


def test_a_query_does_not_name_a_parameter_twice() -> None:
    """A name of the author's own query is no parameter of a GET; as {name} it is."""
    fixed = _config(method="GET", url="https://a.example/o?id=1")
    assert [path for path, _ in _refused(fixed)] == ["tools[0].url"]
    check_config(_config(method="GET", url="https://a.example/o?id={id}"))
    check_config(_config(method="POST", url="https://a.example/o?id=1"))


@pytest.mark.parametrize(
    ("id_schema", "said"),
    [
        ({"$ref": "https://elsewhere.example/schema"}, "$ref"),
        ({"$ref": "#/$defs/missing"}, "$ref"),
        ({"$id": "https://elsewhere.example/", "type": "string"}, "$id"),
        ({"type": "string", "pattern": "(unclosed"}, "pattern"),
        ({"type": "object", "patternProperties": {"[": {}}}, "pattern"),
        ({"anyOf": [{"pattern": "*"}]}, "pattern"),
    ],
)
def test_a_schema_that_no_call_could_be_held_against_is_refused(id_schema: Any, said: str) -> None:
    """References that lead out of it or nowhere, and patterns that do not compile."""
    config = _config(parameters={"type": "object", "properties": {"id": id_schema}})
    ((path, description),) = _refused(config)
    assert path == "tools[0].parameters"
    assert said in description


def test_data_in_a_schema_is_not_taken_for_a_schema() -> None:
    """An enum or a default may say what would be wrong as a keyword, and a
    property may be called as one; references within are good."""
    check_config(
        _config(
            parameters={
                "type": "object",
                "$defs": {"word": {"type": "string"}},
                "properties": {
                    "id": {"enum": [{"$ref": "x"}], "default": {"pattern": "("}},
                    "pattern": {"$ref": "#/$defs/word"},
                },
            }
        )
    )


def test_a_schema_of_schemas_is_judged_at_once() -> None:
    """References that double at each step are not followed."""
    steps = {
        f"s{n}": {"allOf": [{"$ref": f"#/$defs/s{n + 1}"}, {"$ref": f"#/$defs/s{n + 1}"}]} for n in range(60)
    }
    check_config(
        _config(
            parameters={
                "type": "object",
                "$defs": {**steps, "s60": {"type": "string"}},
                "properties": {"id": {"$ref": "#/$defs/s0"}},
            }
        )
    )


def test_headers_of_the_connection_are_the_nodes() -> None:
    """A config sets neither the host nor the framing of a request, and no header twice."""
    config = _config(
        headers={"Host": "b.example", "X-Shop": "north", "x-shop": "south"},
        secret_headers={"X-SHOP": "env:A_TOKEN", "transfer-encoding": "env:A_TOKEN"},
    )
    config.mcp_servers.add(name="m", url="https://a.example/mcp").secret_headers["Host"] = "env:A_TOKEN"
    assert [path for path, _ in _refused(config)] == [
        "tools[0].headers.Host",
        "tools[0].headers.x-shop",
        "tools[0].secret_headers.X-SHOP",
        "tools[0].secret_headers.transfer-encoding",
        "mcp_servers[0].secret_headers.Host",
    ]


@pytest.mark.parametrize("url", ["wss://a.example/mcp", "https://a.example/{id}", "https://a.example/#x"])
def test_an_mcp_server_is_spoken_to_over_http(url: str) -> None:
    """Other schemes, parameters and fragments are refused."""
    config = _config()
    config.mcp_servers.add(name="m", url=url)
    assert [path for path, _ in _refused(config)] == ["mcp_servers[0].url"]


def test_an_mcp_server_does_not_bring_the_sessions_own_tools() -> None:
    """Their names are taken."""
    config = _config()
    config.mcp_servers.add(name="m", url="https://a.example/mcp", allowed_tools=["x", "end_session"])
    assert [path for path, _ in _refused(config)] == ["mcp_servers[0].allowed_tools[1]"]


def test_an_agent_with_too_long_a_name_cannot_take_over() -> None:
    """The tool of a transfer would have a name that models do not take."""
    config = _config()
    for length in (52, 53):
        config.session_config.transfers.add(agent_id="a" * length, description="Hands on.")
    assert [path for path, _ in _refused(config)] == ["session_config.transfers[1].agent_id"]


def test_an_address_is_taken_apart() -> None:
    """The host in lower case, the port of the scheme, a path at least."""
    url = split_url("https://A.Example.:8443?x={y}")
    assert (url.origin, url.path, url.query, url.names) == (("https", "a.example", 8443), "/", "x={y}", ["y"])
    assert split_url("http://[0:0::1]/p").origin == ("http", "::1", 80)

"""A tool's arguments within its address: whatever they are, they stay there."""

from __future__ import annotations

import posixpath
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from agent_node.job.tools.http_client import HttpRequest
from agent_node.job.tools.template import ArgumentRefused, target_of
from voxplane.tool_urls import split_url

TRICKS = [
    "/",
    "..",
    ".",
    "%2f",
    "%252f",
    "%2e%2e",
    "\\",
    "?",
    "#",
    "&",
    "=",
    ";",
    "@",
    ":",
    "//evil.test",
    "%",
    " ",
    "\r\n",
]
VALUES = st.one_of(st.text(), st.lists(st.sampled_from(TRICKS), min_size=1, max_size=4).map("".join))
TEMPLATE = split_url("https://crm.test/v1/orders/{id}/lines/n-{line}?view=all&state={state}")


@given(VALUES, VALUES, VALUES)
def test_no_value_leaves_its_place(order: str, line: str, state: str) -> None:
    """The host, the number of segments and every other part of the address are
    the author's, also after the path was decoded twice; each value arrives as it was."""
    try:
        target = target_of(TEMPLATE, {"id": order, "line": line, "state": state}, rest_in_query=True)
    except ArgumentRefused:
        return
    url = HttpRequest("GET", TEMPLATE.origin, target, {}, {}, None).url
    parts = urlsplit(str(url))
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "crm.test", "")
    assert URL(str(url)).host == "crm.test"
    assert [unquote(segment) for segment in parts.path.split("/")] == [
        "",
        "v1",
        "orders",
        order,
        "lines",
        f"n-{line}",
    ]
    assert parse_qsl(parts.query, keep_blank_values=True) == [("view", "all"), ("state", state)]
    twice = unquote(unquote(parts.path))
    assert twice.count("/") == 5
    assert posixpath.normpath(twice).startswith("/v1/orders/")
    assert posixpath.normpath(twice).count("/") == 5


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        ".",
        "..",
        "../admin",
        "a/b",
        "a\\b",
        "%2e%2e",
        "%2f",
        "%252F",
        "..;x",
        "a\nb",
        "\x00",
        "\ud800",
    ],
)
def test_a_value_that_could_climb_is_refused(value: str) -> None:
    """Slashes, dots alone and control characters do not go into a path, and
    the model is told which parameter it was."""
    with pytest.raises(ArgumentRefused, match="id"):
        target_of(split_url("https://crm.test/orders/{id}"), {"id": value}, rest_in_query=False)


def test_values_that_climb_together_are_refused() -> None:
    """Two harmless values that make dots or a slash in one segment are refused."""
    url = split_url("https://crm.test/a/{x}{y}")
    for x, y in ((".", "."), ("%2", "f"), ("%", "2e.")):
        with pytest.raises(ArgumentRefused):
            target_of(url, {"x": x, "y": y}, rest_in_query=False)


def test_an_author_may_write_an_encoded_slash() -> None:
    """What the author has encoded stays as it is."""
    url = split_url("https://git.test/projects/{group}%2F{name}?a=%26")
    target = target_of(url, {"group": "g r", "name": "n"}, rest_in_query=False)
    assert target == "/projects/g%20r%2Fn?a=%26"


def test_a_value_encoded_without_end_is_refused_soon() -> None:
    """A value that would have to be decoded thousands of times costs nothing."""
    with pytest.raises(ArgumentRefused, match="too often"):
        target_of(split_url("https://crm.test/{id}"), {"id": "%" + "25" * 3_000}, rest_in_query=False)


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        ({"id": 7}, "/o/7"),
        ({"id": 1.5, "page": True}, "/o/1.5?page=true"),
        ({"id": "x", "tags": ["a", "b&c"]}, "/o/x?tags=a&tags=b%26c"),
        ({"id": "x", "range": {"from": 1}}, "/o/x?range=%7B%22from%22%3A%201%7D"),
        ({"id": "x", "page": None}, "/o/x"),
        ({"id": "x", "state": "é/="}, "/o/x?state=%C3%A9%2F%3D"),
        ({"id": "x", "a&b": "1"}, "/o/x?a%26b=1"),
    ],
)
def test_arguments_of_other_types_are_written_as_json_has_them(
    arguments: dict[str, Any], target: str
) -> None:
    """Numbers and booleans as in JSON, lists as pairs, objects as JSON text,
    null as nothing; a pair of the query without its value is left out."""
    assert (
        target_of(split_url("https://crm.test/o/{id}?state={state}"), arguments, rest_in_query=True) == target
    )


def test_a_list_does_not_go_into_a_path() -> None:
    """Only a single value has a place in a segment."""
    with pytest.raises(ArgumentRefused, match="id must be a string"):
        target_of(split_url("https://crm.test/o/{id}"), {"id": ["a"]}, rest_in_query=False)


def test_an_argument_does_not_override_the_authors_query() -> None:
    """A name that the author's query has is not added again."""
    with pytest.raises(ArgumentRefused, match="scope"):
        target_of(split_url("https://crm.test/o?scope=own"), {"scope": "all"}, rest_in_query=True)


def test_an_address_is_bounded() -> None:
    """An address that no server would take is not sent."""
    with pytest.raises(ArgumentRefused, match="too long"):
        target_of(split_url("https://crm.test/o"), {"q": "x" * 9_000}, rest_in_query=True)

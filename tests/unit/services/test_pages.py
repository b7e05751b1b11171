"""Pages of a list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.services.pages import (
    PAGE_BYTES_MAX,
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    last_key,
    last_number,
    page,
)
from voxplane.errors import VoxplaneError
from voxplane.v1 import agent_pb2


def items(ids: list[str], after: str, note_bytes: int = 0) -> list[agent_pb2.Agent]:
    """The agents behind a key."""
    return [
        agent_pb2.Agent(agent_id=each, display_name="x" * note_bytes) for each in sorted(ids) if each > after
    ]


def key(agent: agent_pb2.Agent) -> str:
    """Where an agent stands."""
    return agent.agent_id


@given(ids=st.lists(st.text("abcé", min_size=1, max_size=4), unique=True), size=st.integers(1, 5))
def test_pages_make_up_the_list(ids: list[str], size: int) -> None:
    """Page after page gives every item once, in order, and then ends."""
    seen: list[str] = []
    token = ""
    while True:
        taken, token = page(items(ids, last_key(token, "list")), size, key, "list")
        assert len(taken) <= size
        seen += map(key, taken)
        if not token:
            break
        assert len(taken) == size
    assert seen == sorted(ids)


def test_page_sizes_are_clamped() -> None:
    """0 means the default, and more than the most means the most."""
    ids = [f"{number:05}" for number in range(PAGE_SIZE_MAX + 5)]
    assert len(page(items(ids, ""), 0, key, "list")[0]) == PAGE_SIZE_DEFAULT
    assert len(page(items(ids, ""), 10**9, key, "list")[0]) == PAGE_SIZE_MAX


def test_a_page_of_large_items_ends_early() -> None:
    """A page stays below the message limit of clients, and has one item at least."""
    third = PAGE_BYTES_MAX // 3
    taken, token = page(items(["a", "b", "c", "d"], "", third), 0, key, "list")
    assert ([key(item) for item in taken], last_key(token, "list")) == (["a", "b"], "b")
    taken, _ = page(items(["a", "b"], "", 2 * PAGE_BYTES_MAX), 0, key, "list")
    assert [key(item) for item in taken] == ["a"]


def test_a_forged_token_is_refused_not_a_fault() -> None:
    """A token of the right list whose key is no number is PAGE_TOKEN."""
    _, token = page(items(["x", "y"], ""), 1, key, "numbers")
    with pytest.raises(VoxplaneError) as caught:
        last_number(token, "numbers")
    assert caught.value.reason_name == "PAGE_TOKEN"
    assert last_number("", "numbers") is None

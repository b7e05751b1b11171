"""The state that a log makes."""

from __future__ import annotations

import pytest

from control_plane.services import decisions
from control_plane.state import apply, empty
from tests.unit.services.agent_requests import TENANT, act, commit, create, entry_of, update, with_agent
from voxplane.names import agent_name
from voxplane.storage.v1 import log_pb2


def test_the_empty_tenant() -> None:
    """A tenant without commits is at revision 0, with no commit time."""
    state = empty(TENANT, "epoch")
    assert (state.revision, state.revision_message().HasField("commit_time")) == (0, False)


def test_a_commit_leaves_other_agents_as_they_are() -> None:
    """A change of one agent carries the others' bundles and bytes over, unmade."""
    state = with_agent("a", with_agent("b"))
    changed = decisions.update_agent_config(state, update("New.", "a"), act())
    after = commit(state, changed)
    other = agent_name(TENANT, "b")
    assert after.bundles[other] is state.bundles[other]
    (shared,) = set(state.contents) & set(after.contents)
    assert after.contents[shared] is state.contents[shared]
    assert after.bundles[agent_name(TENANT, "a")].revision == 3
    assert after.bundles[other].revision == 1


def test_equal_contents_are_kept_until_the_last_use() -> None:
    """Two agents with one content share it; it goes with the second."""
    state = with_agent("a", with_agent("b"))
    (shared,) = state.contents
    one = commit(state, decisions.update_agent_config(state, update("One.", "a"), act()))
    assert shared in one.contents
    two = commit(one, decisions.update_agent_config(one, update("Two.", "b"), act()))
    assert shared not in two.contents


def test_an_earlier_state_is_not_touched() -> None:
    """A state is a value: what comes later leaves it as it was."""
    state = with_agent()
    names, contents = set(state.bundles), dict(state.contents)
    commit(state, decisions.update_agent_config(state, update("New."), act()))
    assert (set(state.bundles), dict(state.contents)) == (names, contents)
    with pytest.raises(TypeError):
        state.bundles[agent_name(TENANT, "x")] = None  # type: ignore[index]


def test_a_bundle_that_says_the_same_keeps_its_revision() -> None:
    """A commit that a bundle does not show leaves the bundle's revision."""
    state = with_agent()
    request = update("Draft.")
    request.draft = True
    after = commit(state, decisions.update_agent_config(state, request, act()))
    (bundle,) = after.bundles.values()
    assert (after.revision, bundle.revision) == (2, 1)


def test_entries_out_of_order_are_refused() -> None:
    """Only the next entry of the same tenant can be applied."""
    state = empty(TENANT, "epoch")
    decision = decisions.create_agent(state, create(), act())
    entry = entry_of(state, decision)
    with pytest.raises(ValueError, match="does not follow"):
        apply(apply(state, entry), entry)
    with pytest.raises(ValueError, match="does not follow"):
        apply(empty(TENANT, "epoch"), log_pb2.LogEntry(tenant_id="other", revision=1))


def test_a_mutation_of_the_future_is_refused() -> None:
    """A log that a newer version wrote is not half understood."""
    entry = log_pb2.LogEntry(tenant_id=TENANT, revision=1, mutations=[log_pb2.Mutation()])
    with pytest.raises(ValueError, match="does not know"):
        apply(empty(TENANT, "epoch"), entry)

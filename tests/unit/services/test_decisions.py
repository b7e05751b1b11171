"""Decisions of AgentService: pure functions of the state and the request."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.services import decisions
from control_plane.services.decisions.agents import AGENTS_PER_TENANT_MAX
from control_plane.services.decisions.change import (
    ALIAS_HISTORY_MAX,
    ALIASES_PER_AGENT_MAX,
    VERSIONS_PER_AGENT_MAX,
)
from control_plane.state import Postponed, TenantState, empty, from_snapshot, to_snapshot
from tests.unit.services.agent_requests import (
    AGENT,
    NOW,
    TENANT,
    act,
    commit,
    config,
    create,
    update,
    with_agent,
)
from voxplane.digest import bundle_etag, content_hash
from voxplane.errors import VoxplaneError
from voxplane.names import LIVE, AgentId, agent_name
from voxplane.v1 import agent_pb2, bundle_pb2, schema_pb2
from voxplane.v1 import agent_service_pb2 as service_pb2


def agent(state: TenantState, agent_id: str = AGENT) -> agent_pb2.Agent:
    """The agent as the state has it."""
    return state.agents[AgentId(agent_id)].agent


def updated(state: TenantState, instructions: str, **more: str) -> TenantState:
    """The state after one more version."""
    return commit(state, decisions.update_agent_config(state, update(instructions, **more), act()))


def reason(error: pytest.ExceptionInfo[VoxplaneError]) -> str:
    """The reason of a refusal."""
    return error.value.reason_name


def test_create_makes_version_1_live() -> None:
    """A new agent has one version, live, and is named by its id."""
    decision = decisions.create_agent(empty(TENANT, "epoch"), create(), act())
    made = decision.response
    assert made.agent.aliases[LIVE].version == 1
    assert made.agent.display_name == AGENT
    assert (made.version.number, made.version.author, made.version.revision) == (1, "tester", 1)
    assert made.version.content_hash == content_hash(config())
    assert (made.revision.number, made.revision.epoch) == (1, "epoch")
    assert made.revision.commit_time.seconds == NOW
    assert agent(commit(empty(TENANT, "epoch"), decision)) == made.agent


def test_a_taken_id_stays_taken() -> None:
    """An id cannot be used again, not even after the agent was deleted."""
    state = with_agent()
    with pytest.raises(VoxplaneError, match=r"exists$") as first:
        decisions.create_agent(state, create(), act())
    request = service_pb2.DeleteAgentRequest(tenant_id=TENANT, agent_id=AGENT)
    state = commit(state, decisions.delete_agent(state, request, act()))
    with pytest.raises(VoxplaneError, match="undelete it") as second:
        decisions.create_agent(state, create(), act())
    assert reason(first) == reason(second) == "AGENT_EXISTS"


def test_agents_of_a_tenant_are_bounded() -> None:
    """The agent after the last is refused by LIMIT_REACHED."""
    state = with_agent()
    record = state.agents[AgentId(AGENT)]
    full = {AgentId(f"a{number}"): record for number in range(AGENTS_PER_TENANT_MAX)}
    crowded = TenantState(TENANT, "epoch", agents=full)
    with pytest.raises(VoxplaneError) as raised:
        decisions.create_agent(crowded, create("one-more"), act())
    assert reason(raised) == "LIMIT_REACHED"


def test_an_update_that_changes_nothing_makes_no_version() -> None:
    """A no-op update has no mutations and answers with the present version."""
    state = with_agent()
    decision = decisions.update_agent_config(state, update("Be kind."), act())
    assert decision.mutations == []
    assert decision.response.version.number == 1
    assert decision.response.revision == state.revision_message()


def test_a_draft_moves_no_alias() -> None:
    """A draft is a version that no alias points at; the bundle stays as it is."""
    state = with_agent()
    request = update("Draft.")
    request.draft = True
    after = commit(state, decisions.update_agent_config(state, request, act()))
    assert agent(after).latest_version == 2
    assert agent(after).aliases[LIVE].version == 1
    assert after.bundles == state.bundles
    assert after.contents == state.contents


def test_an_update_of_another_alias_leaves_live() -> None:
    """The alias that is named is the base and is moved; others stay."""
    state = with_agent()
    point = service_pb2.SetAliasRequest(tenant_id=TENANT, agent_id=AGENT, alias="staging", version=1)
    state = commit(state, decisions.set_alias(state, point, act()))
    state = updated(state, "Be brief.", alias="staging")
    assert {name: a.version for name, a in agent(state).aliases.items()} == {"live": 1, "staging": 2}
    with pytest.raises(VoxplaneError) as raised:
        decisions.update_agent_config(state, update("x", alias="canary"), act())
    assert reason(raised) == "ALIAS_NOT_FOUND"


def test_a_bad_config_names_paths_of_the_request() -> None:
    """What the merged config breaks is named from `config`, also where the
    fault is in how two blocks fit together."""
    state = with_agent()
    request = service_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id=AGENT)
    request.config.llm_config.temperature = 3
    request.config.prompt_config.dynamic_vars["1x"] = "y"
    request.update_mask.paths.extend(["llm_config.temperature", "prompt_config.dynamic_vars"])
    with pytest.raises(VoxplaneError) as raised:
        decisions.update_agent_config(state, request, act())
    assert reason(raised) == "INVALID_REQUEST"
    fields = {violation.field for violation in raised.value.violations}
    assert "config.llm_config.temperature" in fields
    assert any(field.startswith("config.prompt_config.dynamic_vars") for field in fields)


KEY = "sk-" + "x1" * 12


def test_what_is_written_beside_the_config_holds_no_key() -> None:
    """A key in the name, in a label or in a note is refused by its path, which
    does not repeat it; the hash of a commit is no key there."""
    request = create(display_name=KEY, note=f"see {KEY}")
    request.labels["team"] = KEY
    request.labels[KEY] = KEY
    request.labels["commit"] = "3f786850e387550fdab836ed7e6dc881de23001b"
    with pytest.raises(VoxplaneError) as raised:
        decisions.create_agent(empty(TENANT, "e"), request, act())
    assert reason(raised) == "SECRET_LITERAL"
    assert {violation.field for violation in raised.value.violations} == {
        "display_name",
        "note",
        "labels",
        'labels["team"]',
    }
    assert KEY not in repr(raised.value.violations) + raised.value.message
    with pytest.raises(VoxplaneError) as raised:
        decisions.update_agent_config(with_agent(), update("New.", note=KEY), act())
    assert [violation.field for violation in raised.value.violations] == ["note"]


LONG = "Not judged before: test_decisions. {% for i in (1..9) %}{{ i }}{% endfor %}"


def test_what_takes_long_to_judge_is_judged_elsewhere() -> None:
    """A decision on a heavy template is put off until it is found out whether
    the template is good; then it is made, or refused as any other."""
    state = with_agent()
    for instructions, refused in ((LONG, False), (LONG + "{{ missing }}", True)):
        request = update(instructions)
        with pytest.raises(Postponed) as raised:
            decisions.update_agent_config(state, request, act())
        raised.value.find_out()
        if not refused:
            assert decisions.update_agent_config(state, request, act()).mutations
            continue
        with pytest.raises(VoxplaneError) as first:
            decisions.update_agent_config(state, request, act())
        with pytest.raises(VoxplaneError) as short:
            decisions.update_agent_config(state, update("{{ missing }}"), act())
        assert first.value.message == short.value.message
        assert first.value.violations == short.value.violations


def test_a_wrong_etag_is_refused() -> None:
    """A mutation with an etag that is not the present one is ABORTED."""
    state = with_agent()
    delete = service_pb2.DeleteAgentRequest(tenant_id=TENANT, agent_id=AGENT, etag="old")
    with pytest.raises(VoxplaneError) as deleting:
        decisions.delete_agent(state, delete, act())
    with pytest.raises(VoxplaneError) as updating:
        decisions.update_agent_config(state, update("x", etag="old"), act())
    assert reason(deleting) == reason(updating) == "ETAG_MISMATCH"
    assert agent(updated(state, "x", etag=agent(state).etag)).etag != agent(state).etag


def test_delete_and_undelete() -> None:
    """A deleted agent has no bundle and takes no change; undelete brings it back
    as it was."""
    state = with_agent()
    delete = service_pb2.DeleteAgentRequest(tenant_id=TENANT, agent_id=AGENT)
    undelete = service_pb2.UndeleteAgentRequest(tenant_id=TENANT, agent_id=AGENT)
    with pytest.raises(VoxplaneError) as not_deleted:
        decisions.undelete_agent(state, undelete, act())
    gone = commit(state, decisions.delete_agent(state, delete, act()))
    assert not gone.bundles
    assert not gone.contents
    with pytest.raises(VoxplaneError) as deleted:
        decisions.update_agent_config(gone, update("x"), act())
    back = commit(gone, decisions.undelete_agent(gone, undelete, act()))
    (before,), (after,) = state.bundles.values(), back.bundles.values()
    assert (before.etag, state.contents) == (after.etag, back.contents)
    assert (reason(not_deleted), reason(deleted)) == ("AGENT_NOT_DELETED", "AGENT_DELETED")


def test_schema_fields_come_and_go() -> None:
    """A field is added at its position and removed by its name."""
    state = with_agent()
    field = schema_pb2.SchemaField(field_name="stage", field_type="integer")
    request = service_pb2.AddSchemaFieldRequest(tenant_id=TENANT, agent_id=AGENT, field=field, position=1)
    added = decisions.add_schema_field(state, request, act())
    names = [f.field_name for f in added.response.version.config.schema_config.fields]
    assert names == ["reply", "stage", "mood"]
    state = commit(state, added)
    with pytest.raises(VoxplaneError) as twice:
        decisions.add_schema_field(state, request, act())
    remove = service_pb2.RemoveSchemaFieldRequest(tenant_id=TENANT, agent_id=AGENT, field_name="reply")
    removed = decisions.remove_schema_field(state, remove, act())
    names = [f.field_name for f in removed.response.version.config.schema_config.fields]
    assert names == ["stage", "mood"]
    with pytest.raises(VoxplaneError) as missing:
        decisions.remove_schema_field(commit(state, removed), remove, act())
    assert (reason(twice), reason(missing)) == ("FIELD_EXISTS", "FIELD_NOT_FOUND")


def test_a_bad_schema_field_is_named_as_in_the_request() -> None:
    """The new field's faults have paths that begin at `field`, wherever it goes."""
    state = with_agent()
    field = schema_pb2.SchemaField(field_name="stage", field_type="enum")
    request = service_pb2.AddSchemaFieldRequest(tenant_id=TENANT, agent_id=AGENT, field=field, position=1)
    with pytest.raises(VoxplaneError) as raised:
        decisions.add_schema_field(state, request, act())
    assert [v.field for v in raised.value.violations] == ["field.constraints.enum_values"]
    request.position = 7
    with pytest.raises(VoxplaneError) as beyond:
        decisions.add_schema_field(state, request, act())
    assert [(v.field, v.description) for v in beyond.value.violations] == [("position", "must be at most 2")]


def test_a_field_that_another_block_names_cannot_go() -> None:
    """Removing the field that instructs the voice is refused, by the contract's rule."""
    state = with_agent()
    request = service_pb2.UpdateAgentConfigRequest(tenant_id=TENANT, agent_id=AGENT)
    request.config.tts_config.provider = "offline"
    request.config.tts_config.instruction_field = "mood"
    request.update_mask.paths.append("tts_config")
    state = commit(state, decisions.update_agent_config(state, request, act()))
    remove = service_pb2.RemoveSchemaFieldRequest(tenant_id=TENANT, agent_id=AGENT, field_name="mood")
    with pytest.raises(VoxplaneError) as raised:
        decisions.remove_schema_field(state, remove, act())
    (violation,) = raised.value.violations
    assert violation.field.startswith("config")
    assert "instruction_field must name" in violation.description


def test_tracing_is_switched_and_the_rate_stays() -> None:
    """SetTracing makes a version with tracing on; an unset rate is left as it is."""
    state = with_agent()
    request = service_pb2.SetTracingRequest(tenant_id=TENANT, agent_id=AGENT, enabled=True, sample_rate=0.25)
    state = commit(state, decisions.set_tracing(state, request, act()))
    off = service_pb2.SetTracingRequest(tenant_id=TENANT, agent_id=AGENT, enabled=False)
    tracing = decisions.set_tracing(state, off, act()).response.version.config.tracing_config
    assert (tracing.enabled, tracing.sample_rate) == (False, 0.25)


def test_aliases_are_bounded_and_need_their_version() -> None:
    """An alias points at a version that exists, and there is a last alias."""
    state = with_agent()
    request = service_pb2.SetAliasRequest(tenant_id=TENANT, agent_id=AGENT, alias="staging", version=2)
    with pytest.raises(VoxplaneError) as missing:
        decisions.set_alias(state, request, act())
    for number in range(ALIASES_PER_AGENT_MAX - 1):
        one = service_pb2.SetAliasRequest(tenant_id=TENANT, agent_id=AGENT, alias=f"a{number}", version=1)
        state = commit(state, decisions.set_alias(state, one, act()))
        assert decisions.set_alias(state, one, act()).mutations == []
    request.version = 1
    with pytest.raises(VoxplaneError) as full:
        decisions.set_alias(state, request, act())
    assert (reason(missing), reason(full)) == ("VERSION_NOT_FOUND", "LIMIT_REACHED")


def test_old_versions_go_but_for_those_in_reach() -> None:
    """The newest versions are kept, and those that an alias points at or can be
    rolled back to."""
    state = with_agent()
    pin = service_pb2.SetAliasRequest(tenant_id=TENANT, agent_id=AGENT, alias="pinned", version=2)
    for number in range(2, VERSIONS_PER_AGENT_MAX + 6):
        state = updated(state, f"Version {number}.")
        if number == 2:
            state = commit(state, decisions.set_alias(state, pin, act()))
    kept = sorted(state.agents[AgentId(AGENT)].versions)
    newest = VERSIONS_PER_AGENT_MAX + 5
    assert kept == [2, *range(newest - VERSIONS_PER_AGENT_MAX + 1, newest + 1)]


ALIASES = ("live", "staging")
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("update"), st.sampled_from(ALIASES)),
        st.tuples(st.just("rollback"), st.sampled_from(ALIASES)),
        st.tuples(st.just("set"), st.sampled_from(ALIASES), st.integers(1, 6)),
    ),
    max_size=60,
)


def moved(state: TenantState, move: tuple[str, ...]) -> tuple[TenantState, str]:
    """The state after a move of an alias, or the reason why there was none."""
    try:
        return carried_out(state, move), ""
    except VoxplaneError as error:
        return state, error.reason_name


def may_be_refused(move: tuple[str, ...], stack: list[int], latest: int) -> str:
    """The reason for which a move is refused; empty if it is not."""
    match move:
        case ("set", _, version):
            return "VERSION_NOT_FOUND" if int(version) > latest else ""
        case _ if not stack:
            return "ALIAS_NOT_FOUND"
        case ("rollback", _) if len(stack) == 1:
            return "NO_EARLIER_VERSION"
        case _:
            return ""


def carried_out(state: TenantState, move: tuple[str, ...]) -> TenantState:
    """The state after a move of an alias. Raises VoxplaneError."""
    named = {"tenant_id": TENANT, "agent_id": AGENT, "alias": move[1]}
    match move:
        case ("set", _, version):
            request = service_pb2.SetAliasRequest(**named, version=int(version))
            return commit(state, decisions.set_alias(state, request, act()))
        case ("rollback", _):
            back = service_pb2.RollbackAliasRequest(**named)
            return commit(state, decisions.rollback_alias(state, back, act()))
        case _:
            return updated(state, f"Revision {state.revision + 1}.", alias=move[1])


@settings(max_examples=60, deadline=None)
@given(moves=MOVES)
def test_an_alias_is_a_stack_of_versions(moves: list[tuple[str, ...]]) -> None:
    """Whatever moves it, an alias' history is what it pointed at before, the last
    32 at most, and a rollback takes the last. The state is the same whether it
    was built step by step or loaded from a snapshot."""
    state, stacks, latest = with_agent(), {"live": [1]}, 1
    for move in moves:
        stack = stacks.get(move[1], [])
        state, refused = moved(state, move)
        assert refused == may_be_refused(move, stack, latest)
        if refused:
            continue
        if move[0] == "rollback":
            stack.pop()
        elif move[0] == "update":
            latest += 1
            stack.append(latest)
        elif not stack or stack[-1] != int(move[2]):
            stack.append(int(move[2]))
        stacks[move[1]] = stack[-ALIAS_HISTORY_MAX - 1 :]
        shown = {name: [*a.history, a.version] for name, a in agent(state).aliases.items()}
        assert shown == {name: kept for name, kept in stacks.items() if kept}
        check_served(state)
    loaded = from_snapshot(to_snapshot(state), "epoch")
    assert loaded.agents == state.agents
    assert (loaded.contents, loaded.content_uses) == (state.contents, state.content_uses)
    assert {n: b.etag for n, b in loaded.bundles.items()} == {n: b.etag for n, b in state.bundles.items()}


def check_served(state: TenantState) -> None:
    """Bundles and contents are exactly what the aliases reach."""
    record = state.agents[AgentId(AGENT)]
    bundle = state.bundles[agent_name(TENANT, AGENT)]
    reached = sorted({alias.version for alias in record.agent.aliases.values()})
    assert [version.number for version in bundle.bundle.versions] == reached
    assert bundle.encoded == bundle.bundle.SerializeToString(deterministic=True)
    assert bundle.etag == bundle_etag(bundle.bundle)
    assert set(state.contents) == {record.versions[number].content_hash for number in reached}
    for name, encoded in state.contents.items():
        content = bundle_pb2.VersionContent.FromString(encoded)
        assert content.content_hash == name == content_hash(content.config)

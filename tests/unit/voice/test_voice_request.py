"""The caller in a voice job's metadata."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.job.voice_request import (
    METADATA_CHARS_MAX,
    VoiceRequest,
    caller_of,
    metadata_of,
    request_of,
)
from voxplane.errors import VoxplaneError
from voxplane.node.v1.relay_service_pb2 import CallerContext

GOOD = {"tenant": "acme", "agent": "interview"}


def test_the_caller_is_read_from_the_metadata() -> None:
    """Tenant, agent, user, alias and variables become the caller's context."""
    metadata = GOOD | {"user": "Ann", "alias": "staging", "variables": {"name": "Ann"}}
    caller = caller_of(json.dumps(metadata), "job-1")
    assert (caller.session_id, caller.tenant_id, caller.agent_id) == ("job-1", "acme", "interview")
    assert (caller.user_id, caller.alias, dict(caller.variables)) == ("Ann", "staging", {"name": "Ann"})


def test_tenant_and_agent_are_enough() -> None:
    """All else is optional; an empty alias means live."""
    caller = caller_of(json.dumps(GOOD), "job-1")
    assert (caller.user_id, caller.alias, dict(caller.variables)) == ("", "", {})


@pytest.mark.parametrize(
    ("metadata", "path"),
    [
        ("", "metadata"),
        ("[]", "metadata"),
        (" " * (METADATA_CHARS_MAX + 1), "metadata"),
        ({"agent": "a"}, "metadata.tenant"),
        ({"tenant": "acme"}, "metadata.agent"),
        (GOOD | {"tenant": "Acme"}, "metadata.tenant"),
        (GOOD | {"agent": "a/b"}, "metadata.agent"),
        (GOOD | {"alias": "Live!"}, "metadata.alias"),
        (GOOD | {"user": 7}, "metadata.user"),
        (GOOD | {"variables": {"n": 7}}, "metadata.variables"),
        (GOOD | {"variables": {str(i): "" for i in range(101)}}, "metadata.variables"),
        (GOOD | {"variables": {"n": "x" * 4001}}, "metadata.variables"),
        (GOOD | {"tennant": "acme"}, "metadata.tennant"),
        (GOOD | {"session": "s" * 129}, "metadata.session"),
        (GOOD | {"session": "a b"}, "metadata.session"),
        (GOOD | {"node": "n" * 129}, "metadata.node"),
    ],
)
def test_bad_metadata_is_refused_at_its_path(metadata: Any, path: str) -> None:
    """The refusal names the part that is wrong."""
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    with pytest.raises(VoxplaneError) as caught:
        caller_of(text, "job-1")
    assert caught.value.reason_name == "INVALID_REQUEST"
    assert path in [violation.field for violation in caught.value.violations]


@given(st.dictionaries(st.sampled_from(["tenant", "agent", "user", "variables"]), st.text(min_size=1)))
def test_a_refusal_repeats_nothing_of_the_caller(values: dict[str, str]) -> None:
    """What the caller sent, which may be personal, is not in the error."""
    marked = {key: f"§{value}§" for key, value in values.items()}
    with pytest.raises(VoxplaneError) as caught:
        caller_of(json.dumps(marked), "job-1")
    assert "§" not in str(caught.value)
    assert all("§" not in violation.description for violation in caught.value.violations)


def test_a_session_may_have_an_id_of_its_own() -> None:
    """Without one the job's id is the session's."""
    assert caller_of(json.dumps(GOOD | {"session": "s" * 128}), "job-1").session_id == "s" * 128
    assert caller_of(json.dumps(GOOD | {"session": ""}), "job-1").session_id == "job-1"


@given(
    st.builds(
        VoiceRequest,
        st.builds(
            CallerContext,
            session_id=st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.:-]{0,127}", fullmatch=True),
            tenant_id=st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True),
            agent_id=st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True),
            user_id=st.text(max_size=200),
            alias=st.from_regex(r"([a-z][a-z0-9_-]{0,62})?", fullmatch=True),
            variables=st.dictionaries(st.text(max_size=63), st.text(max_size=200), max_size=5),
        ),
        st.from_regex(r"([a-zA-Z0-9][a-zA-Z0-9_.-]{0,127})?", fullmatch=True),
    )
)
def test_a_job_that_takes_over_is_for_the_same_caller(request: VoiceRequest) -> None:
    """What was asked for comes back whole, whatever the job's id."""
    assert request_of(metadata_of(request), "job-2") == request

"""The private hosts that tools may call, from the node's settings to its jobs."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from agent_node.daemon import secrets_environment
from agent_node.job.tools.addresses import private_hosts_of
from agent_node.settings import load_settings


def test_the_open_hosts_reach_every_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the settings open is open in a job, by name and port, and nothing
    is by default."""
    assert private_hosts_of(secrets_environment(load_settings({}))).entries == frozenset()
    monkeypatch.setenv("VOXPLANE_TOOL_PRIVATE_HOSTS", "crm.internal,[::1]:8080")
    opened = private_hosts_of(secrets_environment(load_settings({})))
    assert opened.allow("crm.internal", 1)
    assert opened.allow("::1", 8080)
    assert not opened.allow("::1", 80)


@pytest.mark.parametrize("text", ["http://crm.internal", "crm.internal/path", "10.0.0.0/8", "::1", "a:port"])
def test_what_is_no_host_is_refused(text: str) -> None:
    """An address, a network or a bare IPv6 address is no entry."""
    with pytest.raises(ValidationError, match="tool_private_hosts"):
        load_settings({"tool_private_hosts": text})

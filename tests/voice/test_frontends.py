"""Pages of all kinds in a real room are told the fields of a reply."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.livekit.frontends import LARGE
from tests.livekit.inside import LIVEKIT_URL
from tests.livekit.namespace import ROOT
from tests.livekit.stage import Stage

SECONDS_MAX = 60.0
pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_each_kind_of_page_has_all_fields(stage: Stage) -> None:
    """A page that joins late is told the newest reply; short payloads come by
    RPC, and as text streams where the method is not registered or a field is too
    large."""
    tickets = [stage.token("frontends", who, None) for who in ("agent", "page")]
    process = await asyncio.create_subprocess_exec(
        *stage.network.entering((sys.executable, "-m", "tests.livekit.frontends", LIVEKIT_URL, *tickets)),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    said, _ = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    told = json.loads(said.splitlines()[-1])
    ways = {kind: set(each["ways"]) for kind, each in told.items()}
    assert ways == {
        "joins late": {"rpc"},
        "takes rpcs": {"rpc"},
        "takes text streams": {"text"},
        "is told much": {"text"},
    }
    lengths = {kind: each["fields"]["answer"] for kind, each in told.items()}
    assert lengths == {
        "joins late": len("said before anybody came"),
        "takes rpcs": len("a short answer"),
        "takes text streams": len("a short answer"),
        "is told much": len(LARGE),
    }

"""Every table of sessions against the one in memory, over random histories."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.store import MemoryStore, SessionQuery, SessionTable
from control_plane.store.session_table import place_of
from tests.contract.backends import BACKENDS
from tests.contract.session_samples import ACTIVE, ENDED, NOW, key, report, session, turn
from voxplane.v1 import session_pb2, session_service_pb2

Step = Callable[[SessionTable, float], Any]

IDS = st.sampled_from(["s1", "s2", "s3"])
TENANTS = st.sampled_from(["acme", "other"])
NODES = st.sampled_from(["n1", "n2"])
SESSIONS = st.builds(
    session,
    IDS,
    st.integers(0, 6),
    started=st.sampled_from([None, NOW, NOW - 5, NOW + 5]),
    tenant_id=TENANTS,
    node_id=NODES,
    agent_id=st.sampled_from(["sales", "care"]),
    state=st.sampled_from([ACTIVE, ACTIVE, ENDED]),
    version=st.integers(0, 2),
)
TURNS = st.lists(st.builds(turn, st.integers(1, 4), version=st.integers(1, 3)), max_size=3)
REPORTS = st.builds(lambda of, turns: report(of, *turns), SESSIONS, TURNS)
KEYS = st.builds(key, IDS, TENANTS)


async def _puts(table: SessionTable, now: float, reports: list[session_service_pb2.SessionReport]) -> Any:
    return await table.put(reports, now)


async def _reconciles(table: SessionTable, now: float, node_id: str, running: set[Any]) -> Any:
    return sorted(
        (each.tenant_id, each.session_id, each.state) for each in await table.reconcile(node_id, running, now)
    )


async def _trims(table: SessionTable, now: float, seconds: float, most: int) -> Any:
    return await table.trim(now - seconds, most)


STEPS = st.one_of(
    st.tuples(st.just(_puts), st.tuples(st.lists(REPORTS, max_size=5))),
    st.tuples(st.just(_reconciles), st.tuples(NODES, st.sets(KEYS, max_size=4))),
    st.tuples(st.just(_trims), st.tuples(st.integers(0, 9), st.integers(0, 4))),
)


async def _seen(table: SessionTable) -> list[Any]:
    """All that the table shows."""
    seen: list[Any] = [await table.active_nodes()]
    for tenant_id in ("acme", "other"):
        whole = await table.page(SessionQuery(tenant_id))
        seen.append(whole)
        for each in whole:
            seen.append(await table.turns(tenant_id, each.session_id))
            seen.append(await table.page(SessionQuery(tenant_id, before=place_of(each), limit=2)))
        seen.append(await table.page(SessionQuery(tenant_id, agent_id="care", version=2)))
        seen.append(
            await table.page(SessionQuery(tenant_id, state=session_pb2.SESSION_STATE_LOST, node_id="n1"))
        )
    return seen


@pytest.mark.parametrize("name", sorted(set(BACKENDS) - {"memory"}))
@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, max_size=12))
def test_a_table_is_what_the_one_in_memory_is(name: str, steps: list[Any]) -> None:
    """Over any history of reports, losses, returns and trims a table answers
    and shows what the one in memory does."""

    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            model, store = MemoryStore(), await BACKENDS[name](Path(folder)).open()
            for at, (step, arguments) in enumerate(steps):
                now = NOW + 4 * at
                assert await step(store.sessions, now, *arguments) == await step(
                    model.sessions, now, *arguments
                )
                assert await _seen(store.sessions) == await _seen(model.sessions)
            await store.close()

    asyncio.run(play())

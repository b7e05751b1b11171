"""A process that puts sessions until it is killed, and says what was stored.

    python -m tests.unit.store.put_until_killed PATH NAME

Each line of its output is the id of a session that was acknowledged with a
turn.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from control_plane.store import SqliteStore
from tests.contract.session_samples import report, session, turn

PIPELINE = 40


async def main(path: Path, name: str) -> None:
    """Keep PIPELINE puts on their way."""
    store = await SqliteStore.open(path)
    at = 0
    while True:
        ids = [f"{name}-{at + n}" for n in range(PIPELINE)]
        pending = [store.sessions.put([report(session(each), turn(1))], time.time()) for each in ids]
        for put, session_id in zip(pending, ids, strict=True):
            await put
            sys.stdout.write(f"{session_id}\n")
            sys.stdout.flush()
        at += PIPELINE


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

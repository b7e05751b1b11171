"""A process that commits until it is killed, and says what was acknowledged.

    python -m tests.unit.store.commit_until_killed PATH NAME

Each line of its output is a revision and the request_id that made it, written
after the commit was acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from control_plane.store import SqliteStore
from tests.contract.log_samples import ACME, meta, put

PIPELINE = 40


async def main(path: Path, name: str) -> None:
    """Keep PIPELINE commits on their way."""
    store = await SqliteStore.open(path)
    head = await store.head(ACME)
    while True:
        ids = [f"{name}-{head + n + 1}" for n in range(PIPELINE)]
        pending = [
            store.commit(ACME, head + n, [put("x" * 500)], meta(request_id, time.time()))
            for n, request_id in enumerate(ids)
        ]
        for commit, request_id in zip(pending, ids, strict=True):
            sys.stdout.write(f"{(await commit).revision} {request_id}\n")
            sys.stdout.flush()
        head += PIPELINE


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

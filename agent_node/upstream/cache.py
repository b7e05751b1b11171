"""The last good bundles on disk: one file per tenant, replaced atomically.

A file is MAGIC (which names the format's version), the sha256 of the rest in
hexadecimal and a newline, then two length-prefixed ConfigTransfer messages:
the tenant's snapshot, and the earlier bundles that are held back for agents
whose present bundle has not proven itself yet.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError

from agent_node.upstream.snapshot import Snapshot, TornTransfer, build_snapshot
from voxplane.clock import Clock
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

MAGIC = b"voxplane node cache 1\n"
SUFFIX = ".cache"
BAD_SUFFIX = ".bad"
WRITE_RETRY_SECONDS = 5.0
_DIGEST_CHARS = 64
_LENGTH_BYTES = 8

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Cached:
    """A tenant as it is on disk. `held` are the earlier bundles, at the same
    revision, of agents whose present bundle may not work."""

    snapshot: Snapshot
    held: Snapshot


class CorruptCache(Exception):
    """A file of the cache is not what was written."""


def encode(cached: Cached) -> bytes:
    """The file's bytes."""
    parts: list[bytes] = []
    for snapshot in (cached.snapshot, cached.held):
        message = snapshot.transfer().SerializeToString()
        parts += [len(message).to_bytes(_LENGTH_BYTES, "big"), message]
    body = b"".join(parts)
    return MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(data: bytes) -> Cached:
    """What a file's bytes hold. Raises CorruptCache."""
    head = len(MAGIC) + _DIGEST_CHARS + 1
    body = data[head:]
    if not data.startswith(MAGIC):
        raise CorruptCache("another format")
    if data[len(MAGIC) : head] != hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise CorruptCache("the checksum does not fit")
    snapshots: list[Snapshot] = []
    try:
        while body:
            end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "big")
            transfer = sync_pb2.ConfigTransfer.FromString(body[_LENGTH_BYTES:end])
            pool = {content.content_hash: content for content in transfer.contents}
            tenant_id = TenantId(transfer.tenant_id)
            snapshots.append(
                build_snapshot(tenant_id, transfer.revision, transfer.bundles, pool, transfer.synced)
            )
            body = body[end:]
        snapshot, held = snapshots
    except (DecodeError, TornTransfer, ValueError) as error:
        raise CorruptCache(str(error)) from error
    return Cached(snapshot, held)


class DiskCache:
    """A folder of files, one per tenant. The calls block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def load(self) -> list[Cached]:
        """All tenants that can be read. A file that cannot is set aside."""
        found: list[Cached] = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                cached = decode(path.read_bytes())
                if path.stem != cached.snapshot.tenant_id:
                    raise CorruptCache(f"it holds tenant {cached.snapshot.tenant_id}")
                found.append(cached)
            except (CorruptCache, OSError) as error:
                _log.error("cache file set aside", file=path.name, reason=str(error))
                path.replace(path.with_suffix(BAD_SUFFIX))
        return found

    def write(self, cached: Cached) -> None:
        """Replace a tenant's file; it is on disk when this returns."""
        path = self._folder / f"{cached.snapshot.tenant_id}{SUFFIX}"
        fresh = path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(encode(cached))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class CacheWriter:
    """Writes snapshots off the loop, one at a time, of each tenant the newest.

    `held` gives the bundles to hold back, `written` is told what is on disk.
    """

    def __init__(
        self,
        cache: DiskCache,
        clock: Clock,
        *,
        held: Callable[[Snapshot], Snapshot],
        written: Sequence[Callable[[Snapshot, int], None]],
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._held = held
        self._written = written
        self._pending: dict[TenantId, tuple[Snapshot, int]] = {}
        self._wake = asyncio.Event()

    def put(self, snapshot: Snapshot, serial: int) -> None:
        """Write a snapshot soon; a later one of the tenant replaces it."""
        self._pending[snapshot.tenant_id] = (snapshot, serial)
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled. What is being written then is finished."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "cache") as thread:
            while True:
                while not self._pending:
                    self._wake.clear()
                    await self._wake.wait()
                tenant_id, (snapshot, serial) = next(iter(self._pending.items()))
                del self._pending[tenant_id]
                cached = Cached(snapshot, self._held(snapshot))
                try:
                    await loop.run_in_executor(thread, self._cache.write, cached)
                except OSError as error:
                    _log.error("cache not written", tenant_id=tenant_id, reason=str(error))
                    self._pending.setdefault(tenant_id, (snapshot, serial))
                    await self._clock.sleep(WRITE_RETRY_SECONDS)
                    continue
                for listener in self._written:
                    listener(snapshot, serial)

"""The last good bundles on disk: one file per tenant, replaced atomically.

A file is MAGIC (which names the format's version), the sha256 of the rest in
hexadecimal and a newline, then two length-prefixed ConfigTransfer messages:
the tenant's snapshot, and the earlier bundles that are held back for agents
whose present bundle has not proven itself yet.

A file that is not what was written is set aside for people to look at. One
that cannot be read stays: the disk may come back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError

from agent_node.upstream.snapshot import Snapshot, TornTransfer, build_snapshot, is_id
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2

FORMAT = b"voxplane node cache "
MAGIC = FORMAT + b"1\n"
SUFFIX = ".cache"
BAD_SUFFIX = ".bad"
NEW_SUFFIX = ".new"
FILE_BYTES_MAX = 2 * 1024 * 1024 * 1024
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
        raise CorruptCache(_which_format(data))
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
    if held.bundles and held.tenant_id != snapshot.tenant_id:
        raise CorruptCache("it holds two tenants")
    return Cached(snapshot, held)


def _which_format(data: bytes) -> str:
    if not data.startswith(FORMAT):
        return "it is no cache file, or it is empty"
    version = data[len(FORMAT) : len(FORMAT) + 20].partition(b"\n")[0]
    return f"format {version.decode('ascii', 'replace')} is not one that this version of the node reads"


class DiskCache:
    """A folder of files, one per tenant. The calls block, and raise OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._make_folder()

    def load(self) -> list[Cached]:
        """All tenants that can be read."""
        found: list[Cached] = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                cached = decode(_read(path))
                if path.stem != cached.snapshot.tenant_id:
                    raise CorruptCache(f"it holds tenant {cached.snapshot.tenant_id}")
                found.append(cached)
            except CorruptCache as error:
                _log.error("cache file set aside", file=path.name, reason=str(error))
                _set_aside(path)
            except OSError as error:
                _log.error("cache file not read", file=path.name, reason=str(error))
        return found

    def write(self, cached: Cached) -> None:
        """Replace a tenant's file; it is on disk when this returns."""
        self.replace(f"{_file_stem(cached.snapshot.tenant_id)}{SUFFIX}", encode(cached))

    def remove(self, tenant_id: TenantId) -> None:
        """Delete a tenant's file; it is gone when this returns."""
        (self._folder / f"{_file_stem(tenant_id)}{SUFFIX}").unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._sync_folder()

    def read(self, name: str) -> bytes | None:
        """A file of the folder; None if there is none."""
        try:
            return _read(self._folder / name)
        except FileNotFoundError:
            return None

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file of the folder, which is made again if it has gone."""
        path = self._folder / name
        fresh = path.with_name(name + NEW_SUFFIX)
        try:
            descriptor = _create(fresh)
        except FileNotFoundError:
            self._make_folder()
            descriptor = _create(fresh)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)  # half a file must not fill the disk
            raise
        self._sync_folder()

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _sync_folder(self) -> None:
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)


def _file_stem(tenant_id: TenantId) -> str:
    if not is_id(tenant_id):
        raise ValueError(f"no file is named by {tenant_id!r}")
    return tenant_id


def _read(path: Path) -> bytes:
    """Raises CorruptCache for what is no plain file of a possible size."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hang the start
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise CorruptCache("it is no plain file")
        if status.st_size > FILE_BYTES_MAX:
            raise CorruptCache(f"{status.st_size} bytes are more than any tenant has")
        return file.read()


def _set_aside(path: Path) -> None:
    try:
        path.replace(path.with_suffix(BAD_SUFFIX))
    except OSError as error:
        _log.error("cache file stays where it is", file=path.name, reason=str(error))

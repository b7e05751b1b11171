"""The entries of the spool: pure.

An entry on disk is its length and its CRC-32, each four bytes, then its kind in
a byte, the lengths of the two ids of its session, each in two, the ids, and the
rest: a Session or a SessionTurn, or the number of a turn. A file that was cut
off in the middle of an entry, or damaged, holds what is before it.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

MAGIC = b"voxplane node sessions 1\n"
FRAME_BYTES_MAX = 1_048_576
_HEAD = struct.Struct(">II")
_NAMES = struct.Struct(">BHH")
_NUMBER = struct.Struct(">I")
HEAD_BYTES = _HEAD.size


class SessionId(NamedTuple):
    """A session of a tenant."""

    tenant_id: str
    session_id: str


class Kind(IntEnum):
    """What an entry says."""

    RECORD = 1
    TURN = 2
    TURN_GONE = 3
    SESSION_GONE = 4


class Frame(NamedTuple):
    """An entry: the newest record of a session, a turn of it, or that either
    need not be kept any more."""

    kind: Kind
    id: SessionId
    data: bytes = b""

    @property
    def size(self) -> int:
        """The bytes that it takes on disk."""
        names = sum(len(name.encode()) for name in self.id)
        return HEAD_BYTES + _NAMES.size + names + len(self.data)


class TornFrame(Exception):
    """No entry stands here."""


def turn_gone(key: SessionId, number: int) -> Frame:
    """The entry that says so of a turn."""
    return Frame(Kind.TURN_GONE, key, _NUMBER.pack(number))


def number_of(frame: Frame) -> int:
    """The turn that is gone. Raises TornFrame."""
    try:
        return int(_NUMBER.unpack(frame.data)[0])
    except struct.error as error:
        raise TornFrame(str(error)) from error


def encode(frame: Frame) -> bytes:
    """The entry's bytes."""
    tenant_id, session_id = (name.encode() for name in frame.id)
    names = _NAMES.pack(frame.kind, len(tenant_id), len(session_id))
    body = b"".join((names, tenant_id, session_id, frame.data))
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def body_bytes(head: bytes) -> int:
    """The bytes that follow a head. Raises TornFrame."""
    if len(head) < HEAD_BYTES:
        raise TornFrame("it is cut off")
    size = int(_HEAD.unpack(head)[0])
    if size > FRAME_BYTES_MAX:
        raise TornFrame(f"{size} bytes are more than any entry has")
    return size


def decode(head: bytes, body: bytes) -> Frame:
    """The entry. Raises TornFrame."""
    size, checksum = _HEAD.unpack(head)
    if len(body) != size or zlib.crc32(body) != checksum:
        raise TornFrame("the checksum does not fit")
    try:
        kind, tenant, session = _NAMES.unpack_from(body)
        middle = _NAMES.size + tenant
        end = middle + session
        key = SessionId(body[_NAMES.size : middle].decode(), body[middle:end].decode())
        return Frame(Kind(kind), key, body[end:])
    except (ValueError, struct.error) as error:
        raise TornFrame(str(error)) from error

"""Snapshots as bytes, made and read a piece at a time.

Protobuf keeps every other thread waiting until it has done a message, which
for a tenant with 10,000 versions is 0.1 s. A message may come in pieces, as
long as each is of whole fields.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from voxplane.storage.v1 import log_pb2

RESOURCES_AT_ONCE = 20
"""A fraction of a millisecond."""
PIECE_BYTES = 64 * 1024
_WIRE_TYPE, _MORE, _BITS = 0x07, 0x80, 0x7F


def encode_snapshot(snapshot: log_pb2.Snapshot) -> bytes:
    """The serialised message."""
    bare = log_pb2.Snapshot(tenant_id=snapshot.tenant_id, revision=snapshot.revision, hash=snapshot.hash)
    if snapshot.HasField("time"):
        bare.time.CopyFrom(snapshot.time)
    pieces = (
        log_pb2.Snapshot(resources=snapshot.resources[at : at + RESOURCES_AT_ONCE]).SerializeToString()
        for at in range(0, len(snapshot.resources), RESOURCES_AT_ONCE)
    )
    return b"".join([bare.SerializeToString(), *pieces])


def decode_snapshot(encoded: bytes) -> log_pb2.Snapshot:
    """The message. Raises DecodeError."""
    snapshot = log_pb2.Snapshot()
    start = at = 0
    while at < len(encoded):
        at = _field_end(encoded, at)
        if at - start >= PIECE_BYTES or at >= len(encoded):
            snapshot.MergeFromString(encoded[start:at])
            start = at
    if at > len(encoded):
        raise DecodeError("the snapshot ends within a field")
    return snapshot


def _field_end(encoded: bytes, at: int) -> int:
    try:
        tag, at = _varint(encoded, at)
        match tag & _WIRE_TYPE:
            case 0:
                return _varint(encoded, at)[1]
            case 1:
                return at + 8
            case 2:
                size, at = _varint(encoded, at)
                return at + size
            case 5:
                return at + 4
            case other:
                raise DecodeError(f"a field of wire type {other}")
    except IndexError as error:
        raise DecodeError("the snapshot ends within a field") from error


def _varint(encoded: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = encoded[at]
        at += 1
        value |= (byte & _BITS) << shift
        if not byte & _MORE:
            return value, at
        shift += 7

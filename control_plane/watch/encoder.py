"""Messages as bytes: the part that streams share is made once.

A message is the shared bytes and then the stream's own `stream_id` and
`nonce`; bundles and contents go in as the state has them, not parsed again.
Serialised messages may be joined, which merges them: that is all that is used
here of the wire format, with length-delimited fields.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import cachetools

from control_plane.watch.transfer import Part
from voxplane.names import TenantId
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import revision_pb2

ENCODED_BYTES_MAX = 64 * 1024 * 1024
NONCES_KEPT = 4_096
_LENGTH_DELIMITED = 2
_Response = sync_pb2.WatchConfigResponse


def encode_part(part: Part) -> bytes:
    """A WatchConfigResponse with the transfer alone. As the field numbers are
    equal, it is a FetchConfigResponse too, and the parts of one transfer
    joined are the whole."""
    head = sync_pb2.ConfigTransfer(tenant_id=part.tenant_id, revision=part.revision)
    if part.start is not None:
        head.start.CopyFrom(part.start)
    if part.withheld:
        head.withheld.update(part.withheld)
    pieces = [head.SerializeToString()]
    for number, item in part.items:
        pieces += (_key(number, len(item)), item)
    if part.synced is not None:
        tail = sync_pb2.ConfigTransfer(synced=part.synced, tenant_removed=part.tenant_removed)
        pieces.append(tail.SerializeToString())
    size = sum(map(len, pieces))
    return b"".join((_key(_Response.TRANSFER_FIELD_NUMBER, size), *pieces))


def encode_heartbeat(seconds: float, revisions: Mapping[TenantId, revision_pb2.Revision]) -> bytes:
    """A WatchConfigResponse with the heartbeat alone."""
    message = _Response()
    message.heartbeat.interval.FromNanoseconds(round(seconds * 1e9))
    for tenant_id, revision in revisions.items():
        message.heartbeat.revisions[tenant_id].CopyFrom(revision)
    return message.SerializeToString()


def encode_drain(reason: sync_pb2.DrainReason, seconds: float) -> bytes:
    """A WatchConfigResponse with the drain alone."""
    message = _Response(drain=sync_pb2.Drain(reason=reason))
    message.drain.reconnect_after.FromNanoseconds(round(seconds * 1e9))
    return message.SerializeToString()


def encode_report_request(missing: int) -> bytes:
    """A WatchConfigResponse with the request for reports alone."""
    return _Response(report_request=sync_pb2.ReportRequest(missing_sequence=missing)).SerializeToString()


def encode_offer(address: str, *, tls: bool) -> bytes:
    """A WatchConfigResponse with the offer of a listener alone."""
    return _Response(edge_offer=sync_pb2.EdgeOffer(address=address, tls=tls)).SerializeToString()


@lru_cache(NONCES_KEPT)
def _nonce(nonce: int) -> bytes:
    """A nonce and its length: streams of one age are at the same."""
    digits = b"%d" % nonce
    return bytes((len(digits),)) + digits


class Suffix:
    """The end of each message of one stream; the first ends with `greeting`."""

    __slots__ = ("_greeting", "_head")

    def __init__(self, stream_id: str, greeting: bytes = b"") -> None:
        self._greeting = greeting
        empty_nonce = _key(_Response.NONCE_FIELD_NUMBER, 0)
        self._head = _Response(stream_id=stream_id).SerializeToString() + empty_nonce[:-1]

    def bytes(self, nonce: int) -> bytes:
        """The stream's id and the nonce."""
        end = self._head + _nonce(nonce)
        return end + self._greeting if nonce == 1 else end


class _Encoded(NamedTuple):
    part: weakref.ref[Part]
    data: bytes


class Encoder:
    """Remembers encoded parts for as long as somebody has the part, and the
    least used of them only up to a bound."""

    def __init__(self, bytes_max: int = ENCODED_BYTES_MAX) -> None:
        self._encoded: cachetools.LRUCache[int, _Encoded] = cachetools.LRUCache(
            bytes_max, getsizeof=lambda encoded: len(encoded.data)
        )
        self._quiet: dict[float, bytes] = {}
        self._last: tuple[weakref.ref[Part], bytes] | None = None
        self.encoded_parts = 0
        """Count of the parts that were made, not taken from memory."""

    def part(self, part: Part) -> bytes:
        """The bytes of a part, without a suffix."""
        if self._last is not None and self._last[0]() is part:
            return self._last[1]
        data = self._part(part)
        if len(data) <= self._encoded.maxsize:
            self._last = (weakref.ref(part), data)
        return data

    def _part(self, part: Part) -> bytes:
        key = id(part)
        found = self._encoded.get(key)
        if found is not None:
            return found.data
        data = encode_part(part)
        self.encoded_parts += 1
        if len(data) <= self._encoded.maxsize:
            # The id is another part's no sooner than this one is forgotten.
            forget = weakref.ref(part, lambda _: self._encoded.pop(key, None))
            self._encoded[key] = _Encoded(forget, data)
        return data

    @property
    def encoded_bytes(self) -> int:
        """Bytes that are remembered."""
        return int(self._encoded.currsize)

    def heartbeat(self, seconds: float, revisions: Mapping[TenantId, revision_pb2.Revision]) -> bytes:
        """The bytes of a heartbeat, without a suffix."""
        if revisions:
            return encode_heartbeat(seconds, revisions)
        found = self._quiet.get(seconds)
        if found is None:
            found = self._quiet[seconds] = encode_heartbeat(seconds, {})
        return found


def _key(number: int, size: int) -> bytes:
    """Tag and length of a length-delimited field."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(size)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

"""gRPC on HTTP/2: headers and messages, as bytes and as what they mean. Pure.

The rules are those of the specification "gRPC over HTTP2". A message is a byte
that says whether it is compressed, four bytes of length, and its bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from google.rpc import code_pb2

Headers = tuple[tuple[bytes, bytes], ...]
Metadata = tuple[tuple[str, "str | bytes"], ...]

PREFIX_BYTES = 5
CONTENT_TYPE = b"application/grpc"
BINARY_SUFFIX = b"-bin"
PARSED_REQUESTS = 1_024
SHOWN_CHARS_MAX = 200
TRAILER_BYTES_MAX = 15 * 1024
"""Clients of gRPC take 16 KiB, with what HTTP/2 adds to each pair."""
MESSAGE_CHARS_MAX, DETAIL_BYTES_MAX = 1_000, 512
"""What is left of an answer's end that is too large."""
TIMEOUT_SECONDS_MAX = 10 * 365 * 86_400.0

OK_HEADERS = ((b":status", b"200"), (b"content-type", CONTENT_TYPE))
"""The headers of every answer that has begun well."""
HTTP_BODY = b"gRPC is spoken here, and nothing else\n"
"""What is said to those who speak HTTP alone."""
HTTP_END = ((b"grpc-status", b"%d" % code_pb2.UNIMPLEMENTED),)

# Header blocks in HPACK, the same for all: entries of the static table and
# literals that are not indexed, after word that the dynamic table is not used.
_TABLE_OF_NOTHING = b"\x20"
_STATUS_200 = b"\x88"
_STATUS, _CONTENT_TYPE = b"\x08", b"\x0f\x10"


def _literal(name: bytes, value: bytes) -> bytes:
    return name + bytes((len(value),)) + value


OK_BLOCK = _TABLE_OF_NOTHING + _STATUS_200 + _literal(_CONTENT_TYPE, CONTENT_TYPE)


def http_block(status: int) -> bytes:
    """The headers of an answer in HTTP."""
    return (
        _TABLE_OF_NOTHING
        + _literal(_STATUS, b"%d" % status)
        + _literal(_CONTENT_TYPE, b"text/plain; charset=utf-8")
    )


def headers_frame(stream_id: int, block: bytes) -> bytes:
    """A HEADERS frame that does not end its stream."""
    head = len(block) << 48 | _HEADERS << 40 | _END_HEADERS << 32 | stream_id
    return head.to_bytes(9, "big") + block


def window_frame(stream_id: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return (4 << 48 | _WINDOW_UPDATE << 40 | stream_id).to_bytes(9, "big") + more.to_bytes(4, "big")


_HEADERS, _END_HEADERS, _WINDOW_UPDATE = 0x1, 0x4, 0x8
_SECRET = (b"authorization", b"cookie")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3_600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PLAIN = frozenset(range(0x20, 0x7F)) - {0x25}


class CallError(Exception):
    """A call that ends here, with a google.rpc code; the message is for its client."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a call. If it is no gRPC at all, `http_status` says with what
    it is to be answered; if it is gRPC and cannot be served, `error` does."""

    path: str
    metadata: Metadata = ()
    timeout: float | None = None
    error: CallError | None = None
    http_status: int = 0


def parse_request(headers: Headers) -> Request:
    """The head of a call. Nodes' heads are alike: they are read once, and
    shared; those with secrets in them are not kept."""
    if any(name in _SECRET for name, _ in headers):
        return _parse(headers)
    return _parse_shared(headers)


def _parse(headers: Headers) -> Request:
    named = dict(headers)
    path = named.get(b":path", b"").decode("ascii", "replace")
    content_type = named.get(b"content-type", b"")
    if named.get(b":method") != b"POST":
        return Request(path, http_status=405)
    if not content_type.startswith(CONTENT_TYPE) or content_type[len(CONTENT_TYPE) :][:1] not in b"+;":
        return Request(path, http_status=415)
    try:
        kind = content_type[len(CONTENT_TYPE) :].partition(b";")[0]
        if kind not in (b"", b"+proto"):
            raise CallError(code_pb2.UNIMPLEMENTED, "messages are served as application/grpc+proto alone")
        if named.get(b"grpc-encoding", b"identity") != b"identity":
            raise CallError(code_pb2.UNIMPLEMENTED, "compressed messages are not served")
        timeout = _timeout(named.get(b"grpc-timeout"))
        return Request(path, _metadata(headers), timeout)
    except CallError as error:
        return Request(path, error=error)


_parse_shared = lru_cache(PARSED_REQUESTS)(_parse)


def _timeout(text: bytes | None) -> float | None:
    if text is None:
        return None
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise CallError(code_pb2.INVALID_ARGUMENT, "grpc-timeout: must be up to 8 digits and a unit")
    return min(int(found[1]) * _UNITS[found[2]], TIMEOUT_SECONDS_MAX)


def _metadata(headers: Headers) -> Metadata:
    return tuple(
        (name.decode("ascii", "replace"), _value(name, value))
        for name, value in headers
        if not name.startswith((b":", b"grpc-")) and name not in (b"te", b"content-type")
    )


def _value(name: bytes, value: bytes) -> str | bytes:
    if not name.endswith(BINARY_SUFFIX):
        return value.decode("ascii", "replace")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        shown_name = shown(name.decode("ascii", "replace"))
        raise CallError(code_pb2.INVALID_ARGUMENT, f"{shown_name}: must be base64") from None


def shown(text: str) -> str:
    """What a client has sent, as an answer repeats it: by the dynamic table a
    few bytes can be a name of thousands, and percent-encoding makes nine of one."""
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}..."


def trailers(code: int, message: str = "", metadata: Sequence[tuple[str, str | bytes]] = ()) -> Headers:
    """What ends an answer. A client that is told more than it takes learns
    nothing, so the code and the beginning of the message come before details."""
    pairs = tuple((key.encode("ascii"), _encoded(value)) for key, value in metadata)
    made = _status(code, message) + pairs
    if sum(len(name) + len(value) for name, value in made) <= TRAILER_BYTES_MAX:
        return made
    short = tuple(pair for pair in pairs if len(pair[1]) <= DETAIL_BYTES_MAX)
    return _status(code, message[:MESSAGE_CHARS_MAX]) + short


def _status(code: int, message: str) -> Headers:
    status = ((b"grpc-status", b"%d" % code),)
    return (*status, (b"grpc-message", percent_encoded(message))) if message else status


def _encoded(value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return base64.b64encode(value).rstrip(b"=")
    return value.encode("ascii", "replace")


def percent_encoded(message: str) -> bytes:
    """A status message as a header's value."""
    return b"".join(
        bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in message.encode("utf-8", "replace")
    )


class MessageReader:
    """Messages out of the bytes of a request's body."""

    __slots__ = ("_buffer", "_bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self._buffer = bytearray()
        self._bytes_max = bytes_max

    @property
    def unfinished(self) -> int:
        """Bytes of a message that has not come whole."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now. Raises CallError."""
        buffer = self._buffer
        if not buffer and len(data) >= PREFIX_BYTES:
            size = self._size(data)
            if len(data) == PREFIX_BYTES + size:
                return [data[PREFIX_BYTES:]]
        buffer += data
        messages: list[bytes] = []
        start = 0
        while len(buffer) - start >= PREFIX_BYTES:
            size = self._size(buffer[start : start + PREFIX_BYTES])
            end = start + PREFIX_BYTES + size
            if len(buffer) < end:
                break
            messages.append(bytes(buffer[start + PREFIX_BYTES : end]))
            start = end
        del buffer[:start]
        return messages

    def _size(self, head: bytes | bytearray) -> int:
        if head[0] == 1:
            raise CallError(code_pb2.INTERNAL, "a compressed message without grpc-encoding")
        if head[0]:
            raise CallError(code_pb2.INTERNAL, "a message begins with a flag that does not exist")
        size = int.from_bytes(head[1:PREFIX_BYTES], "big")
        if size > self._bytes_max:
            raise CallError(
                code_pb2.RESOURCE_EXHAUSTED,
                f"a message of {size} bytes; at most {self._bytes_max} are taken",
            )
        return size

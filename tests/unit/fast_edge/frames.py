"""HTTP/2 by hand: frames as bytes, good ones and others."""

from __future__ import annotations

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
INITIAL_WINDOW = 4
REQUEST = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/test.Service/Call"),
    (":authority", "edge"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
)


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big")
    return head + payload


def block(headers: tuple[tuple[str, str], ...] = REQUEST) -> bytes:
    """Headers in HPACK, by an encoder that has seen nothing."""
    return bytes(Encoder().encode(headers, huffman=False))


def headers(stream_id: int, fields: tuple[tuple[str, str], ...] = REQUEST, *, end: bool = False) -> bytes:
    """The head of a request."""
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(HEADERS, flags, stream_id, block(fields))


def message(body: bytes) -> bytes:
    """A message of gRPC."""
    return b"\0" + len(body).to_bytes(4, "big") + body


def setting(number: int, value: int) -> bytes:
    """A SETTINGS frame with one of them."""
    return frame(SETTINGS, 0, 0, number.to_bytes(2, "big") + value.to_bytes(4, "big"))


def window(stream_id: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream_id, more.to_bytes(4, "big"))


def hello(*settings: bytes) -> bytes:
    """What a client begins with."""
    return PREFACE + (b"".join(settings) or frame(SETTINGS))


def status_of(data: bytes) -> dict[str, str]:
    """The last headers of an answer, out of all that the server has said."""
    decoder, found = Decoder(), {}
    for kind, _, _, payload in split(data):
        if kind == HEADERS:
            found = {str(name): str(value) for name, value in decoder.decode(payload)}
    return found


def last_goaway(data: bytes) -> tuple[int, int]:
    """The kind of the last frame, and the code of it as a GOAWAY."""
    kind, _, _, payload = split(data)[-1]
    return kind, int.from_bytes(payload[4:8], "big")


def split(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Frames out of bytes: kind, flags, stream, payload."""
    found: list[tuple[int, int, int, bytes]] = []
    while data:
        size = int.from_bytes(data[:3], "big")
        assert len(data) >= 9 + size, "half a frame"
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found

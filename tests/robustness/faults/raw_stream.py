"""A WatchConfig stream by hand: a connection of its own, HTTP/2 frames, and
nothing parsed but their heads. Thousands fit in a process, and one may stop
reading, which gRPC's own client never quite does.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from enum import IntEnum

from hpack import Decoder

from voxplane.v1 import config_sync_service_pb2 as sync_pb2

WINDOW_BYTES_MAX = 2**31 - 1
RECEIVE_BUFFER_BYTES_SMALL = 4096

_PATH = b"/voxplane.v1.ConfigSyncService/WatchConfig"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SIZE = 4
_DEFAULT_WINDOW_BYTES = 65_535
_FRAME_HEAD = 9
_MESSAGE_HEAD = 5
_TRANSFER = b"\x0a"
"""The first byte of a WatchConfigResponse with a transfer."""
_STATUS = re.compile(rb"grpc-status.(\d{1,2})", re.DOTALL)
"""It is sent as it is, once on a connection."""


class _Frame(IntEnum):
    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8


class RawStream(asyncio.Protocol):
    """One stream. `messages` counts what has come whole, `last` is the newest
    transfer's message; `status` is the gRPC code by number once the stream has ended, -1 if it
    ended without."""

    def __init__(
        self,
        request: sync_pb2.WatchConfigRequest,
        *,
        window_bytes: int = WINDOW_BYTES_MAX,
    ) -> None:
        self.messages = 0
        self.last = b""
        self.last_at = 0.0
        self.status: int | None = None
        self.ended = asyncio.Event()
        self._changed = asyncio.Event()
        self._request = request.SerializeToString()
        self._window_bytes = window_bytes
        self._frames = bytearray()
        self._data = bytearray()
        self._blocks: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    async def open(self, address: str, *, small_buffer: bool = False) -> RawStream:
        """Connect and ask. With a small buffer the kernel takes little that is
        not read. Raises OSError."""
        host, _, port = address.rpartition(":")
        connection = socket.socket()
        connection.setblocking(False)
        if small_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES_SMALL)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(connection, (host, int(port)))
            await loop.create_connection(lambda: self, sock=connection)
        except BaseException:
            connection.close()
            raise
        return self

    def close(self) -> None:
        """Cut the connection, without a word."""
        if self._transport is not None:
            self._transport.abort()

    def deafen(self) -> None:
        """Read nothing from now on."""
        assert self._transport is not None
        self._transport.pause_reading()

    def listen(self) -> None:
        """Read on, all that comes."""
        assert self._transport is not None
        self._transport.resume_reading()
        self._send(_Frame.WINDOW_UPDATE, 0, 1, struct.pack(">I", WINDOW_BYTES_MAX - self._window_bytes))

    async def until(self, marker: bytes) -> None:
        """Wait until the newest transfer has the marker in it. Raises
        ConnectionError if the stream ends before."""
        while marker not in self.last:
            if self.ended.is_set():
                raise ConnectionError(f"the stream has ended with {self.status}")
            self._changed.clear()
            await self._changed.wait()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_PREFACE)
        self._send(_Frame.SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, self._window_bytes))
        self._send(_Frame.WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_BYTES_MAX - _DEFAULT_WINDOW_BYTES))
        headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", _PATH),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        self._send(_Frame.HEADERS, _END_HEADERS, 1, b"".join(map(_literal, headers)))
        self._send(_Frame.DATA, _END_STREAM, 1, struct.pack(">BI", 0, len(self._request)) + self._request)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._frames += data
        at, have = 0, len(self._frames)
        while have - at >= _FRAME_HEAD:
            size = int.from_bytes(self._frames[at : at + 3], "big")
            end = at + _FRAME_HEAD + size
            if have < end:
                break
            kind, flags = self._frames[at + 3], self._frames[at + 4]
            self._frame(kind, flags, self._frames[at + _FRAME_HEAD : end])
            at = end
        del self._frames[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end(-1)

    def _frame(self, kind: int, flags: int, payload: bytearray) -> None:
        match kind:
            case _Frame.DATA:
                self._data += payload
                self._messages()
            case _Frame.HEADERS:
                self._blocks.append(bytes(payload))
                if flags & _END_STREAM:
                    self._end(_status_of(self._blocks))
            case _Frame.RST_STREAM | _Frame.GOAWAY:
                self._end(-1)
            case _Frame.SETTINGS if not flags & _ACK:
                self._send(_Frame.SETTINGS, _ACK, 0, b"")
            case _Frame.PING if not flags & _ACK:
                self._send(_Frame.PING, _ACK, 0, bytes(payload))
            case _:
                pass

    def _messages(self) -> None:
        while len(self._data) >= _MESSAGE_HEAD:
            end = _MESSAGE_HEAD + int.from_bytes(self._data[1:_MESSAGE_HEAD], "big")
            if len(self._data) < end:
                return
            message = bytes(self._data[_MESSAGE_HEAD:end])
            del self._data[:end]
            self.messages += 1
            if message.startswith(_TRANSFER):
                self.last, self.last_at = message, time.monotonic()
                self._changed.set()

    def _end(self, status: int) -> None:
        if not self.ended.is_set():
            self.status = status
            self.ended.set()
            self._changed.set()

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        assert self._transport is not None
        head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self._transport.write(head + payload)


def _status_of(blocks: list[bytes]) -> int:
    """The status in the last of an answer's header blocks; -1 if there is none.
    Most servers write it in plain text, which is found at no cost."""
    if plain := _STATUS.search(blocks[-1]):
        return int(plain[1])
    decoder, fields = Decoder(), {}
    for block in blocks:
        fields = {str(name): str(value) for name, value in decoder.decode(block)}
    return int(fields.get("grpc-status", -1))


def _literal(header: tuple[bytes, bytes]) -> bytes:
    name, value = header
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value

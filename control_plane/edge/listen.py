"""The gRPC server and its address."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import grpc

UNIX = "unix:"
RECEIVED_MESSAGE_BYTES_MAX = 16 * 1_048_576
PENDING_CALLS_MAX = 50_000
CLIENT_PING_SECONDS_MIN = 5
SERVER_PING_SECONDS = 30
SERVER_PING_TIMEOUT_SECONDS = 20

_OPTIONS = (
    # A record of every connection and call, for a service that we do not have.
    ("grpc.enable_channelz", 0),
    # Two servers on one port would share its calls without a word.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", RECEIVED_MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", -1),
    # By default thousands of streams that arrive at once are cancelled.
    ("grpc.server.max_pending_requests", PENDING_CALLS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_CALLS_MAX),
    # By default a client that pings every 30 s is sent away.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", CLIENT_PING_SECONDS_MIN * 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", SERVER_PING_SECONDS * 1_000),
    ("grpc.keepalive_timeout_ms", SERVER_PING_TIMEOUT_SECONDS * 1_000),
    # Without it the timeout of a ping is a minute, whatever the line above says.
    ("grpc.http2.ping_timeout_ms", SERVER_PING_TIMEOUT_SECONDS * 1_000),
)


class ListenError(Exception):
    """The address cannot be listened on."""


def make_server(interceptors: Sequence[grpc.aio.ServerInterceptor]) -> grpc.aio.Server:
    """A server with our limits; it listens nowhere yet."""
    return grpc.aio.server(interceptors=interceptors, options=_OPTIONS)


def listen(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None = None) -> str:
    """Have the server listen, over TLS if there are credentials, and return the
    address with its real port. Raises ListenError."""
    claim(address)
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {address}: {error}") from error
    return address if address.startswith(UNIX) else f"{address.rpartition(':')[0]}:{port}"


def claim(address: str) -> None:
    """See that nobody listens on an address. Raises ListenError."""
    if address.startswith(UNIX):
        _claim_socket(address)
    else:
        _claim_port(address)


def _claim_port(address: str) -> None:
    """Raises ListenError, more clearly than gRPC does, if the port is taken."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        for family, kind, protocol, _name, bound in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(bound)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {error.strerror}") from error


def _claim_socket(address: str) -> None:
    """Raises ListenError if a server answers there already; gRPC would push it
    aside without a word. A socket that nobody serves is removed."""
    path = Path(address.removeprefix(UNIX).removeprefix("//"))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    if not path.is_socket():
        raise ListenError(f"cannot listen on {address}: there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ListenError(f"cannot listen on {address}: {error.strerror}") from error
    raise ListenError(f"cannot listen on {address}: another server does")

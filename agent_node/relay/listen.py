"""Takes the node's Unix socket, for this user alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import grpc

SOCKET_PATH_BYTES_MAX = 107
LOCK_SUFFIX = ".lock"
_OWNER_ONLY = 0o177


class SocketTaken(Exception):
    """The socket cannot be had; the message says why."""


@contextmanager
def claim(path: Path) -> Generator[None]:
    """Own a socket's path for the block: another node on it is an error, what
    a dead one left is removed. Raises SocketTaken."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise SocketTaken(
            f"{path} has {len(os.fsencode(path))} bytes, and the path of a Unix socket at most "
            f"{SOCKET_PATH_BYTES_MAX}; choose a shorter --node-socket (VOXPLANE_NODE_SOCKET) or --data-dir"
        )
    try:
        # a folder that is there already may be shared, such as /tmp: it stays as it is
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + LOCK_SUFFIX), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SocketTaken(f"{path} cannot be made: {error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SocketTaken(f"another node runs on {path}") from error
        if _somebody_listens(path):
            raise SocketTaken(f"somebody else listens on {path}")
        path.unlink(missing_ok=True)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(lock)


def bind(server: grpc.aio.Server, path: Path) -> None:
    """Let a server listen on a claimed path, mode 0600 from the beginning."""
    before = os.umask(_OWNER_ONLY)
    try:
        server.add_insecure_port(f"unix:{path}")
    finally:
        os.umask(before)


def _somebody_listens(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True

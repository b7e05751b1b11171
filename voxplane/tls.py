"""A client's side of TLS: whom it trusts, and who it says it is."""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc

ALPN_PROTOCOLS = ["h2"]


Stamp = tuple[tuple[int, int, int] | None, ...]
"""Of each file its inode, size and time of change; None if it is not there."""


class TlsError(Exception):
    """A certificate, a key or an authority cannot be used."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """PEM files. `ca` has the authorities that sign the server's certificate;
    with `cert` and `key` the client shows one of its own."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def of(cls, ca: Path | None, cert: Path | None, key: Path | None) -> Self | None:
        """What the settings say; None without `ca`. Raises ValueError if half of
        it is missing."""
        if (cert is None) != (key is None):
            raise ValueError("tls_cert and tls_key are given together")
        if cert is not None and ca is None:
            raise ValueError("tls_cert needs tls_ca, the authority of the control plane")
        return cls(ca, cert, key) if ca else None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(path for path in (self.ca, self.cert, self.key) if path)

    def context(self) -> ssl.SSLContext:
        """For a socket. Raises TlsError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(ALPN_PROTOCOLS)
        load_authorities(context, self.ca)
        if self.cert is not None:
            load_pair(context, self.cert, self.key)
        return context

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel of gRPC. Raises TlsError."""
        self.context()  # says what is wrong; gRPC says nothing
        try:
            return grpc.ssl_channel_credentials(
                self.ca.read_bytes(),
                self.key.read_bytes() if self.key else None,
                self.cert.read_bytes() if self.cert else None,
            )
        except OSError as error:
            raise TlsError(f"{error.filename}: {why(error)}") from error


def load_authorities(context: ssl.SSLContext, ca: Path) -> None:
    """Have the context trust the authorities of a file. Raises TlsError."""
    try:
        context.load_verify_locations(ca)
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"{ca}: {why(error)}") from error


def load_pair(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Have the context show a certificate. Raises TlsError."""
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        names = ", ".join(str(path) for path in (cert, key) if path)
        raise TlsError(f"{names}: {why(error)}") from error


def stamp(files: Iterable[Path]) -> Stamp:
    """What differs as soon as a file was written, replaced, or reached by a link
    that leads elsewhere."""
    return tuple(_stamp(path) for path in files)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def why(error: Exception) -> str:
    """What an error of ssl or of a file says."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _no_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")

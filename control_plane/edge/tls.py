"""The server's certificate, for gRPC and for the fast edge.

Its files may be renewed while the server runs: they are looked at now and then,
and a new certificate, key or authority of clients is that of every connection
that is opened afterwards. Both listeners hold credentials that ask this module
at each handshake, so nothing listens anew.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

from control_plane.edge.validity import not_after
from voxplane.clock import Clock
from voxplane.tls import ALPN_PROTOCOLS, TlsError, load_authorities, load_pair, stamp, why

CIPHERS_OF_TLS_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""HTTP/2 forbids the others."""
LOOK_SECONDS = 10.0
"""From one look at the files to the next."""
_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----(.+?)-----END ", re.DOTALL)

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With `client_ca`, clients have to show a certificate of one of
    the authorities in it."""

    cert: Path
    key: Path
    client_ca: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(path for path in (self.cert, self.key, self.client_ca) if path)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the files had."""

    context: ssl.SSLContext
    grpc: grpc.ServerCertificateConfiguration
    fingerprint: str
    expires: datetime.datetime


class Certificate:
    """The certificate of all listeners, as its files have it. `taken` and
    `refused` count what was found since the start."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises TlsError."""
        self.taken = 0
        self.refused = 0
        self._files = files
        self._stamp = stamp(files.all)
        self._newest = self._given = _load(files)
        self._greeting = _context(files)
        self._greeting.sni_callback = self._choose
        self._log_taken()

    @property
    def context(self) -> ssl.SSLContext:
        """For the fast edge."""
        return self._greeting

    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC."""
        asks = self._files.client_ca is not None
        give: Any = self._give  # None is no change, which its type leaves out
        return grpc.dynamic_ssl_server_credentials(self._newest.grpc, give, asks)

    async def renew(self, clock: Clock) -> None:
        """Look at the files for as long as it runs."""
        while True:
            await clock.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take what has changed. What cannot be used is left, and looked at again
        when it has changed again."""
        found = stamp(self._files.all)
        if found == self._stamp:
            return
        refusal, loaded = "", None
        try:
            loaded = _load(self._files)
        except TlsError as error:
            refusal = str(error)
        if stamp(self._files.all) != found:
            return  # Not all that was read is of one time.
        self._stamp = found
        if loaded is None:
            self.refused += 1
            _log.error("new certificate refused; the old one stays", reason=refusal)
            return
        self._newest = loaded
        self.taken += 1
        self._log_taken()

    def _log_taken(self) -> None:
        newest = self._newest
        _log.info(
            "certificate taken",
            file=str(self._files.cert),
            sha256=newest.fingerprint,
            expires=newest.expires.isoformat(),
        )

    def _give(self) -> grpc.ServerCertificateConfiguration | None:
        """What gRPC asks at each handshake, in a thread of its own: what is new."""
        newest = self._newest
        if newest is self._given:
            return None
        self._given = newest
        return newest.grpc

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, greeting: ssl.SSLContext
    ) -> None:
        """What OpenSSL asks at each handshake, whether the client names a host or
        not."""
        connection.context = self._newest.context


def _load(files: TlsFiles) -> _Loaded:
    """Raises TlsError."""
    context = _context(files)  # says what is wrong; gRPC says nothing
    try:
        key, cert = files.key.read_bytes(), files.cert.read_bytes()
        roots = files.client_ca.read_bytes() if files.client_ca else None
    except OSError as error:
        raise TlsError(f"{error.filename}: {why(error)}") from error
    leaf = _CERTIFICATE.search(cert)
    try:
        der = base64.b64decode(leaf[1] if leaf else b"")
        expires = not_after(der)
    except (IndexError, ValueError) as error:
        raise TlsError(f"{files.cert}: no certificate in it can be read") from error
    made = grpc.ssl_server_certificate_configuration([(key, cert)], roots)
    return _Loaded(context, made, hashlib.sha256(der).hexdigest(), expires)


def _context(files: TlsFiles) -> ssl.SSLContext:
    """Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_OF_TLS_1_2)
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    # A session that is resumed shows no certificate: it would let in a client
    # whose authority is gone.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    load_pair(context, files.cert, files.key)
    if files.client_ca is not None:
        # Those of TLS 1.2 are kept by OpenSSL, and ssl cannot forbid it.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        load_authorities(context, files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context

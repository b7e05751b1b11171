"""The server's certificate, for gRPC and for the fast edge."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from voxplane.tls import ALPN_PROTOCOLS, TlsError, load_authorities, load_pair, why

CIPHERS_OF_TLS_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""HTTP/2 forbids the others."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With `client_ca`, clients have to show a certificate of one of
    the authorities in it."""

    cert: Path
    key: Path
    client_ca: Path | None = None


def ssl_context(files: TlsFiles) -> ssl.SSLContext:
    """TLS for the fast edge. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS_OF_TLS_1_2)
    context.set_alpn_protocols(ALPN_PROTOCOLS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    load_pair(context, files.cert, files.key)
    if files.client_ca is not None:
        load_authorities(context, files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def grpc_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """TLS for gRPC. Raises TlsError."""
    ssl_context(files)  # says what is wrong; gRPC says nothing
    try:
        pair = (files.key.read_bytes(), files.cert.read_bytes())
        roots = files.client_ca.read_bytes() if files.client_ca else None
    except OSError as error:
        raise TlsError(f"{error.filename}: {why(error)}") from error
    return grpc.ssl_server_credentials([pair], roots, require_client_auth=roots is not None)

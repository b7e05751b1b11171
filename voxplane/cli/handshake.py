"""Why a control plane that listens could not be talked to: gRPC hardly says."""

from __future__ import annotations

import socket
import ssl

import grpc

from voxplane.cli.failures import Failure
from voxplane.tls import ClientTls, TlsError

PROBE_SECONDS_MAX = 3.0
_X509_EXPIRED = 10
_X509_NAME_MISMATCH = (62, 64)
_PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def handshake_failure(address: str, tls: ClientTls | None) -> Failure | None:
    """What stands between a client and the server at HOST:PORT; None if it is
    not TLS."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return None
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), PROBE_SECONDS_MAX) as connection:
            if tls is None:
                return _wants_tls(address) if _speaks_tls(connection) else None
            return _shake_hands(connection, host, address, tls)
    except (OSError, OverflowError):
        return None


def _speaks_tls(connection: socket.socket) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with context.wrap_socket(connection):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")


def _shake_hands(connection: socket.socket, host: str, address: str, tls: ClientTls) -> Failure | None:
    try:
        with tls.context().wrap_socket(connection, server_hostname=host) as secure:
            # Whether the client's certificate is taken shows after the handshake:
            # gRPC's server then has something to say, or leaves.
            return None if secure.recv(1) else _refused(address, tls)
    except TlsError:
        return None
    except ssl.SSLCertVerificationError as error:
        return _distrusted(address, tls, error)
    except ssl.SSLError as error:
        reason = error.reason or ""
        if reason in _PLAIN:
            return _failure(f"{address} speaks no TLS", "leave out --tls-ca, or unset VOXPLANE_TLS_CA")
        return _refused(address, tls) if "ALERT" in reason or "EOF" in reason else None
    except ConnectionResetError:
        return _refused(address, tls)


def _wants_tls(address: str) -> Failure:
    hint = "name its authority by --tls-ca; --tls-cert and --tls-key show a certificate of yours"
    return _failure(f"{address} speaks TLS alone", hint)


def _distrusted(address: str, tls: ClientTls, error: ssl.SSLCertVerificationError) -> Failure:
    if error.verify_code in _X509_NAME_MISMATCH:
        hint = "reach the server by a name that is in its certificate"
    elif error.verify_code == _X509_EXPIRED:
        hint = "the server needs a new certificate, or this machine's clock is wrong"
    else:
        hint = f"the authority of {tls.ca} has not signed it: give another by --tls-ca"
    return _failure(f"the certificate of {address} is not trusted: {error.verify_message}", hint)


def _refused(address: str, tls: ClientTls) -> Failure:
    if tls.cert is None:
        hint = "give one of an authority that it trusts by --tls-cert and --tls-key"
        return _failure(f"{address} takes only clients with a certificate", hint)
    hint = "it has expired, or is of an authority that the server does not trust (its --tls-client-ca)"
    return _failure(f"{address} does not take the certificate {tls.cert}", hint)


def _failure(message: str, hint: str) -> Failure:
    return Failure(message, code=grpc.StatusCode.UNAVAILABLE.name, hint=hint)

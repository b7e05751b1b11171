"""A server whose certificate is renewed while it runs, at both of its listeners."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from structlog.testing import capture_logs

from control_plane.edge.tls import LOOK_SECONDS
from control_plane.edge.validity import not_after
from tests.certificates import Authority, Identity
from tests.unit.server.secure_server import SecureServer, credentials, secure_server
from tests.virtual_clock import VirtualClock
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import config_sync_service_pb2_grpc as sync_grpc

WATCH = sync_pb2.WatchConfigRequest(tenant_id="acme")
FETCH = sync_pb2.FetchConfigRequest(tenant_id="acme")
Logs = list[MutableMapping[str, Any]]


class LookClock(VirtualClock):
    """Counts how often the server has come to rest between two looks."""

    def __init__(self) -> None:
        super().__init__()
        self.rests = 0

    async def sleep(self, seconds: float) -> None:
        """See VirtualClock."""
        self.rests += seconds == LOOK_SECONDS
        await super().sleep(seconds)


@dataclass(frozen=True, slots=True)
class World:
    """A server whose files are in a folder, in virtual time."""

    server: SecureServer
    clock: LookClock
    folder: Path
    authority: Authority
    logs: Logs

    def put(self, identity: Identity) -> None:
        """Replace certificate and key."""
        shutil.copy(identity.cert, self.folder / "tls.crt")
        shutil.copy(identity.key, self.folder / "tls.key")

    async def looked(self) -> None:
        """Wait until the server has looked at its files once more."""
        before = self.clock.rests
        await self.clock.advance(LOOK_SECONDS)
        await until(lambda: self.clock.rests > before)

    @property
    def said(self) -> Logs:
        """What the log says of certificates."""
        return [line for line in self.logs if "certificate" in line["event"]]

    @property
    def outcomes(self) -> tuple[int, int]:
        """How many were taken, and refused."""
        counts = self.server.control_plane.counts()
        return counts["certificates_taken"], counts["certificates_refused"]

    async def shown(self) -> set[str]:
        """The fingerprints of the certificates that the two listeners show."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        context.set_alpn_protocols(["h2"])
        found: set[str] = set()
        for address in (self.server.grpc, self.server.edge):
            host, _, port = address.rpartition(":")
            _, writer = await asyncio.open_connection(host, int(port), ssl=context)
            found.add(hashlib.sha256(writer.get_extra_info("ssl_object").getpeercert(True)).hexdigest())
            writer.close()
        return found


@asynccontextmanager
async def world(folder: Path, *, asks: bool = False) -> AsyncIterator[World]:
    """Serve with the certificate "first", for as long as the block runs."""
    authority, clock = Authority(folder), LookClock()
    first = authority.identity("first")
    files = Identity(folder / "tls.crt", folder / "tls.key")
    shutil.copy(first.cert, files.cert)
    shutil.copy(first.key, files.key)
    shutil.copy(authority.ca, folder / "ca.crt")
    with capture_logs() as logs:
        async with secure_server(files, folder / "ca.crt" if asks else None, clock) as server:
            yield World(server, clock, folder, authority, logs)


def fingerprint(identity: Identity) -> str:
    """A certificate's."""
    found = x509.load_pem_x509_certificate(identity.cert.read_bytes())
    return found.fingerprint(hashes.SHA256()).hex()


async def until(happened: Callable[[], bool]) -> None:
    """Wait for what a thread will do."""
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_new_connections_are_shown_the_new_certificate(tmp_path: Path) -> None:
    """It is that of both listeners without a restart, streams that run go on, and
    the log says which it is and how long it is good for."""
    async with world(tmp_path) as it:
        async with grpc.aio.secure_channel(it.server.edge, credentials(it.authority)) as channel:
            call = sync_grpc.ConfigSyncServiceStub(channel).WatchConfig(WATCH)
            await call.read()
            second = it.authority.identity("second", days=3)
            it.put(second)
            await it.looked()
            assert await it.shown() == {fingerprint(second)}
            assert not call.done()
        taken = it.said[-1]
        assert (taken["event"], taken["sha256"]) == ("certificate taken", fingerprint(second))
        left = datetime.datetime.fromisoformat(taken["expires"]) - datetime.datetime.now(datetime.UTC)
        assert left.days == 2
        assert it.outcomes == (1, 0)


async def test_a_certificate_behind_links(tmp_path: Path) -> None:
    """A secret of Kubernetes is one link that is moved, to a folder of new files."""
    authority, clock = Authority(tmp_path), LookClock()
    identities = [authority.identity(name) for name in ("first", "second")]
    for number, identity in enumerate(identities):
        (tmp_path / f"..{number}").mkdir()
        shutil.copy(identity.cert, tmp_path / f"..{number}" / "tls.crt")
        shutil.copy(identity.key, tmp_path / f"..{number}" / "tls.key")
        # As cp -p and tar do: neither size nor time tells them apart.
        for each in (tmp_path / f"..{number}").iterdir():
            os.utime(each, (1, 1))
    (tmp_path / "..data").symlink_to("..0")
    files = Identity(tmp_path / "tls.crt", tmp_path / "tls.key")
    files.cert.symlink_to("..data/tls.crt")
    files.key.symlink_to("..data/tls.key")
    async with secure_server(files, None, clock) as server:
        it = World(server, clock, tmp_path, authority, [])
        assert await it.shown() == {fingerprint(identities[0])}
        (tmp_path / "..new").symlink_to("..1")
        (tmp_path / "..new").replace(tmp_path / "..data")
        await it.looked()
        assert await it.shown() == {fingerprint(identities[1])}


@pytest.mark.parametrize("broken", ["half", "empty", "gone", "rubbish"])
async def test_what_cannot_be_used_is_not_taken(tmp_path: Path, broken: str) -> None:
    """The old pair stays while the new one is half written, and is replaced when
    it is whole; the log names the files, once."""
    async with world(tmp_path) as it:
        second, key = it.authority.identity("second"), tmp_path / "tls.key"
        shutil.copy(second.cert, tmp_path / "tls.crt")
        if broken == "gone":
            key.unlink()
        elif broken != "half":
            key.write_bytes(b"" if broken == "empty" else b"no key")
        await it.looked()
        assert it.outcomes == (0, 1)
        assert await it.shown() == {fingerprint(Identity(tmp_path / "first.pem", key))}
        errors = [line for line in it.logs if line["log_level"] == "error"]
        assert len(errors) == 1
        assert str(key) in errors[0]["reason"]
        await it.looked()
        shutil.copy(second.key, key)
        await it.looked()
        assert it.outcomes == (1, 1)
        assert await it.shown() == {fingerprint(second)}


async def test_files_that_do_not_change_are_left_alone(tmp_path: Path) -> None:
    """A look at them is all that happens."""
    async with world(tmp_path) as it:
        for _ in range(3):
            await it.looked()
        assert it.outcomes == (0, 0)


async def test_an_authority_of_clients_is_replaced(tmp_path: Path) -> None:
    """Who has a certificate of the old one is not let in any more, by either
    listener, and who has one of the new one is; streams that run go on."""
    (tmp_path / "new").mkdir()
    async with world(tmp_path, asks=True) as it:
        new = Authority(tmp_path / "new", "new authority")
        old_client, new_client = it.authority.identity("old"), new.identity("client")
        trust = credentials(it.authority, old_client)
        async with grpc.aio.secure_channel(it.server.edge, trust) as channel:
            call = sync_grpc.ConfigSyncServiceStub(channel).WatchConfig(WATCH)
            await call.read()
            assert await lets_in(it, old_client) == [True, True]
            assert await lets_in(it, new_client) == [False, False]
            shutil.copy(new.ca, tmp_path / "ca.crt")
            await it.looked()
            assert await lets_in(it, old_client) == [False, False]
            assert await lets_in(it, new_client) == [True, True]
            assert not call.done()


async def lets_in(it: World, client: Identity) -> list[bool]:
    """Whether the listeners take a client's certificate."""
    found: list[bool] = []
    for address in (it.server.grpc, it.server.edge):
        # A channel of the same kind would share the connection of another.
        apart = [("grpc.use_local_subchannel_pool", 1)]
        trust = credentials(it.authority, client)
        async with grpc.aio.secure_channel(address, trust, apart) as channel:
            call = sync_grpc.ConfigSyncServiceStub(channel).FetchConfig(FETCH)
            found.append(await call.code() is grpc.StatusCode.OK)
    return found


async def test_a_session_of_before_is_not_resumed(tmp_path: Path) -> None:
    """A resumed session shows no certificate, so it would bring in a client whose
    authority is gone; a client that begins anew is let in if it has another."""
    (tmp_path / "new").mkdir()
    async with world(tmp_path, asks=True) as it:
        new = Authority(tmp_path / "new", "new authority")
        old = it.authority.identity("old")
        context = ssl.create_default_context(cafile=str(it.authority.ca))
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(old.cert, old.key)
        session = await asyncio.to_thread(greet, it.server.edge, context, None)
        shutil.copy(new.ca, tmp_path / "ca.crt")
        await it.looked()
        with pytest.raises(OSError, match=r"."):
            await asyncio.to_thread(greet, it.server.edge, context, session)
        mine = new.identity("client")
        context.load_cert_chain(mine.cert, mine.key)
        await asyncio.to_thread(greet, it.server.edge, context, None)


async def test_clients_with_certificates_speak_tls_1_3(tmp_path: Path) -> None:
    """A session of TLS 1.2 can be resumed whatever has become of the authority, so
    there is none; without certificates of clients it is spoken."""
    for asks in (True, False):
        async with world(tmp_path, asks=asks) as it:
            client = it.authority.identity("client")
            context = ssl.create_default_context(cafile=str(it.authority.ca))
            context.set_alpn_protocols(["h2"])
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(client.cert, client.key)
            with pytest.raises(OSError, match=r".") if asks else nullcontext():
                await asyncio.to_thread(greet, it.server.edge, context, None)


def greet(address: str, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
    """Shake hands, and see that the server stays; the session that it gave."""
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 10) as plain,
        context.wrap_socket(plain, server_hostname=host, session=session) as secure,
    ):
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        if not secure.recv(1):
            raise ConnectionError("the server has left")
        given = secure.session
        # A server forgets the session of a connection that ends without a word.
        with suppress(ssl.SSLError):
            secure.unwrap()
        return given


@pytest.mark.parametrize("year", [1999, 2049, 2050, 9999])
def test_when_a_certificate_expires(year: int) -> None:
    """Both forms of a time in a certificate are read."""
    end = datetime.datetime(year, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )
    assert not_after(made.public_bytes(serialization.Encoding.DER)) == end

"""Commands that reach the control plane over TLS, and what they say if they cannot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.certificates import Authority, Identity
from tests.unit.cli.processes import Result, voxplane
from tests.unit.server.secure_server import secure_server


@dataclass(frozen=True, slots=True)
class World:
    """A control plane that asks for certificates of `ours`."""

    address: str
    ours: Authority
    others: Authority
    me: Identity

    async def nodes(self, *flags: str | Path) -> Result:
        """`voxplane nodes list` with flags."""
        return await voxplane("nodes", "list", "--server", self.address, *map(str, flags))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """It runs for a test."""
    ours, others = Authority(tmp_path, "ours"), Authority(tmp_path, "others")
    async with secure_server(ours.identity("server"), ours.ca) as server:
        yield World(server.grpc, ours, others, ours.identity("me"))


async def test_a_command_speaks_tls_with_a_certificate(world: World) -> None:
    """Flags name the authority, the certificate and its key."""
    result = await world.nodes(
        "--tls-ca", world.ours.ca, "--tls-cert", world.me.cert, "--tls-key", world.me.key
    )
    assert (result.code, result.err) == (0, "")
    assert "NODE" in result.out


@pytest.mark.parametrize(
    "command",
    [
        "agents list",
        "agents history no-agent",
        "agents delete no-agent",
        "agents set-tracing no-agent --off",
        "sessions list",
        "sessions end no-session",
        "watch --count 1 --label a=b",
        "nodes fleet",
    ],
)
async def test_the_environment_says_it_for_every_command(world: World, command: str) -> None:
    """VOXPLANE_TLS_CA, _CERT and _KEY are those of the node; with them a command
    reaches the services."""
    given = {
        "VOXPLANE_TLS_CA": str(world.ours.ca),
        "VOXPLANE_TLS_CERT": str(world.me.cert),
        "VOXPLANE_TLS_KEY": str(world.me.key),
    }
    result = await voxplane(*command.split(), server=world.address, environment=given)
    assert "TLS" not in result.err
    assert "UNAVAILABLE" not in result.err
    assert "no-" not in command or "not_found" in result.err.lower()


async def test_plain_to_a_server_that_wants_tls(world: World) -> None:
    """The command says that TLS is missing, and which flag turns it on."""
    result = await world.nodes()
    assert result.code == 1
    assert result.err.startswith(f"✗ UNAVAILABLE: {world.address} speaks TLS alone")
    assert "--tls-ca" in result.err


async def test_an_authority_that_has_not_signed_the_server(world: World) -> None:
    """The command names the file that does not match."""
    result = await world.nodes("--tls-ca", world.others.ca)
    assert result.code == 1
    assert f"the certificate of {world.address} is not trusted" in result.err
    assert str(world.others.ca) in result.err


async def test_a_client_without_a_certificate(world: World) -> None:
    """The command says that the server asks for one."""
    result = await world.nodes("--tls-ca", world.ours.ca)
    assert result.code == 1
    assert f"{world.address} takes only clients with a certificate" in result.err
    assert "--tls-cert" in result.err


async def test_a_certificate_of_another_authority(world: World) -> None:
    """The command names the certificate that is not taken, for programs too."""
    other = world.others.identity("other")
    result = await world.nodes(
        "--tls-ca", world.ours.ca, "--tls-cert", other.cert, "--tls-key", other.key, "--json"
    )
    assert result.code == 1
    assert f'does not take the certificate {other.cert}"' in result.err
    assert '"code": "UNAVAILABLE"' in result.err


@pytest.mark.parametrize(
    ("host", "days", "hint"),
    [("elsewhere.example", 1, "reach the server by a name"), ("localhost", 0, "clock")],
)
async def test_a_certificate_that_is_not_for_now_or_here(
    tmp_path: Path, host: str, days: int, hint: str
) -> None:
    """One of another host, and one that has expired, are told apart."""
    authority = Authority(tmp_path)
    async with secure_server(authority.identity("server", host, days)) as server:
        result = await voxplane("nodes", "list", "--tls-ca", str(authority.ca), server=server.grpc)
    assert result.code == 1
    assert f"the certificate of {server.grpc} is not trusted" in result.err
    assert hint in result.err


async def test_tls_to_a_plain_server(tmp_path: Path) -> None:
    """The command says that the server speaks none."""
    async with secure_server(None) as server:
        result = await voxplane("nodes", "list", "--tls-ca", str(Authority(tmp_path).ca), server=server.grpc)
    assert result.code == 1
    assert f"{server.grpc} speaks no TLS" in result.err


async def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    """With TLS too, nobody answers where nobody listens."""
    ca = Authority(tmp_path).ca
    result = await voxplane("nodes", "list", "--tls-ca", str(ca), server="127.0.0.1:1")
    assert "nobody answers at 127.0.0.1:1" in result.err


async def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A file that is missing, no PEM, or not the key of the certificate is named;
    half of a pair is refused before anything is read."""
    authority = Authority(tmp_path)
    one, other = authority.identity("one"), authority.identity("other")
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("nothing")
    ca = str(authority.ca)
    for flags, says in (
        (("--tls-ca", "/none.pem"), "/none.pem: No such file"),
        (("--tls-ca", str(rubbish)), str(rubbish)),
        (("--tls-ca", ca, "--tls-cert", str(one.cert), "--tls-key", str(other.key)), str(other.key)),
        (("--tls-ca", ca, "--tls-cert", str(one.cert)), "given together"),
        (("--tls-cert", str(one.cert), "--tls-key", str(one.key)), "needs --tls-ca"),
    ):
        result = await voxplane("nodes", "list", *flags)
        assert result.code == 2, result.err
        assert says in result.err.replace("\n", "").replace("│", "").replace("  ", " ")


async def test_a_node_whose_authority_is_rubbish_does_not_start(tmp_path: Path) -> None:
    """A node too names the file that cannot be used."""
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("nothing")
    result = await voxplane("node", "--tls-ca", str(rubbish), "--data-dir", str(tmp_path))
    assert result.code == 2
    assert f"tls: {rubbish}: " in result.err

"""Where a tool's request may go: to public addresses, and to the private ones
that the node's settings name."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

PRIVATE_HOSTS_ENV = "VOXPLANE_TOOL_PRIVATE_HOSTS"
"""How the node tells its jobs what its settings allow: HOST or HOST:PORT,
joined by commas."""

ANY_PORT = 0

# Public by the registries, but what answers there is a cloud's own service.
_CLOUD_SERVICES = frozenset((ipaddress.ip_address("168.63.129.16"),))
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")

Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name. Raises OSError."""


class AddressRefused(OSError):
    """The host has no address that a tool's request may go to."""

    def __init__(self, host: str) -> None:
        super().__init__(f"{host} is on a private network, which the node does not allow")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        return _is_public_6(parsed)
    return _is_public_4(parsed)


def _is_public_4(address: ipaddress.IPv4Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and address not in _CLOUD_SERVICES
    )


def _is_public_6(address: ipaddress.IPv6Address) -> bool:
    # what carries an IPv4 address leads to that address
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and address in _TRANSLATED:
        inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if inner is not None:
        return _is_public_4(inner)
    return address in _UNICAST and address.is_global and address.teredo is None


@dataclass(frozen=True, slots=True)
class PrivateHosts:
    """Hosts that may be on a private network, with their ports; ANY_PORT
    stands for all. A name is compared as it is written in the config."""

    entries: frozenset[tuple[str, int]] = frozenset()

    def allow(self, host: str, port: int) -> bool:
        """Whether the host may be private."""
        return not self.entries.isdisjoint(((host, port), (host, ANY_PORT)))


def private_hosts(text: str) -> PrivateHosts:
    """The hosts of HOST[:PORT],HOST[:PORT]; an IPv6 address with a port is in
    brackets. Raises ValueError."""
    return PrivateHosts(frozenset(_entry(part.strip()) for part in text.split(",") if part.strip()))


def private_hosts_of(environ: Mapping[str, str]) -> PrivateHosts:
    """What the node's settings have put into the environment."""
    return private_hosts(environ.get(PRIVATE_HOSTS_ENV, ""))


def _entry(text: str) -> tuple[str, int]:
    host, mark, port = text.rpartition(":")
    if not mark or host.endswith(":") or (":" in host and not host.startswith("[")):
        host, port = text, str(ANY_PORT)
    if not port.isdecimal():
        raise ValueError(f"{text} is not HOST or HOST:PORT")
    host = host.strip("[]").lower().rstrip(".")
    return (str(ipaddress.ip_address(host)) if ":" in host else host), int(port)


async def system_lookup(host: str, port: int) -> Sequence[str]:
    """The addresses that the system knows."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for _, _, _, _, address in found]


class Gate:
    """Gives the addresses that may be connected to. What it gives is what is
    connected to: a name that is looked up again is checked again."""

    def __init__(self, private: PrivateHosts, lookup: Lookup = system_lookup) -> None:
        self._private = private
        self._lookup = lookup

    def check(self, host: str, port: int) -> None:
        """Raises AddressRefused if the host is an address that is not allowed;
        a name is for `addresses`."""
        if _is_address(host) and not self._is_open(host, host, port):
            raise AddressRefused(host)

    async def addresses(self, host: str, port: int) -> list[str]:
        """The host's addresses, of those that are allowed, each once. Raises
        AddressRefused, and OSError if there is no such host."""
        found = [host] if _is_address(host) else await self._lookup(host, port)
        allowed = [each for each in dict.fromkeys(found) if self._is_open(each, host, port)]
        if not allowed:
            raise AddressRefused(host)
        return allowed

    def _is_open(self, address: str, host: str, port: int) -> bool:
        return is_public(address) or self._private.allow(host.lower().rstrip("."), port)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class GateResolver(AbstractResolver):
    """The gate, as aiohttp asks for addresses."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See AbstractResolver."""
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in await self._gate.addresses(host, port)
        ]

    async def close(self) -> None:
        """See AbstractResolver."""


def was_refused(error: BaseException) -> bool:
    """Whether a library's error comes from the gate."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, AddressRefused) or (
            isinstance(seen, aiohttp.ClientConnectorError) and isinstance(seen.os_error, AddressRefused)
        ):
            return True
        seen = seen.__cause__
    return False

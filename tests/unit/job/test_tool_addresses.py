"""Where the requests of tools may go."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.job.tools.addresses import AddressRefused, Gate, is_public, private_hosts, private_hosts_of
from tests.unit.job.tool_world import Names

CLOSED = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::1/128",
    "::/128",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "2001::/32",
)


@st.composite
def closed_addresses(draw: st.DrawFn) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address of a network that is not public."""
    network = ipaddress.ip_network(draw(st.sampled_from(CLOSED)))
    offset = draw(st.integers(0, network.num_addresses - 1))
    return network[offset]


@given(closed_addresses())
def test_no_address_of_a_closed_network_is_public(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Loopback, private, link-local, shared, reserved and multicast addresses
    are closed, also where an IPv6 address carries them."""
    assert not is_public(str(address))
    if isinstance(address, ipaddress.IPv4Address):
        assert not is_public(f"::ffff:{address}")
        assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80))))
        assert not is_public(str(ipaddress.IPv6Address((0x64FF9B << 96) | int(address))))


@pytest.mark.parametrize("address", ["168.63.129.16", "169.254.169.254", "100.100.100.200", "fd00:ec2::254"])
def test_what_clouds_tell_their_machines_is_closed(address: str) -> None:
    """The metadata services of clouds are no public addresses."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    """The rule does not close the internet."""
    assert is_public(address)


async def test_a_name_gives_its_public_addresses_alone() -> None:
    """Of a name with both kinds the private address is never given."""
    gate = Gate(private_hosts(""), Names({"both.test": [["10.0.0.1", "1.1.1.1", "1.1.1.1"]]}))
    assert await gate.addresses("both.test", 443) == ["1.1.1.1"]


async def test_a_name_is_checked_each_time_it_is_looked_up() -> None:
    """A name that was public and then leads inwards is refused."""
    gate = Gate(private_hosts(""), Names({"turns.test": [["1.1.1.1"], ["127.0.0.1"]]}))
    assert await gate.addresses("turns.test", 80) == ["1.1.1.1"]
    with pytest.raises(AddressRefused):
        await gate.addresses("turns.test", 80)


@pytest.mark.parametrize(
    ("setting", "host", "port", "open_"),
    [
        ("crm.test", "crm.test", 80, True),
        ("crm.test", "CRM.test.", 8080, True),
        ("crm.test:8080", "crm.test", 8080, True),
        ("crm.test:8080", "crm.test", 80, False),
        ("crm.test", "other.test", 80, False),
        ("crm.test, 10.0.0.1:81", "10.0.0.1", 81, True),
        ("crm.test, 10.0.0.1:81", "10.0.0.1", 82, False),
        ("10.0.0.1", "other.test", 80, False),
        ("[::1]:81", "::1", 81, True),
        ("[::1]:81", "::1", 82, False),
        ("[::1]", "::1", 82, True),
    ],
)
async def test_the_settings_open_a_host_as_it_is_written(
    setting: str, host: str, port: int, open_: bool
) -> None:
    """A private host is open by its own name or address, on its port or on all."""
    names = Names({"crm.test": [["10.0.0.1"]], "CRM.test.": [["10.0.0.1"]], "other.test": [["10.0.0.1"]]})
    gate = Gate(private_hosts_of({"VOXPLANE_TOOL_PRIVATE_HOSTS": setting}), names)
    if open_:
        assert await gate.addresses(host, port)
    else:
        with pytest.raises(AddressRefused):
            await gate.addresses(host, port)


def test_a_setting_that_is_no_host_is_refused() -> None:
    """A port that is no number is no entry."""
    with pytest.raises(ValueError, match="HOST:PORT"):
        private_hosts("crm.test:http")

"""The demo's LiveKit server keeps to this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest

from agent_node.demo.livekit import config, own_address
from tests.unit.cli.processes import voxplane
from voxplane.cli.livekit_server import PROGRAM, NoLiveKit, start_livekit


def test_its_config_names_this_machine_alone() -> None:
    """Signalling is on the loopback, media on the one address, and nobody is sent to a STUN server elsewhere
    or to that of the media itself."""
    made = config(7880, "10.1.2.3", 7882, {"key": "secret"})
    assert made["bind_addresses"] == ["127.0.0.1"]
    rtc = made["rtc"]
    assert isinstance(rtc, dict)
    assert rtc["node_ip"] == "10.1.2.3"
    assert rtc["use_external_ip"] is False
    assert rtc["ips"] == {"includes": ["10.1.2.3/32"]}
    assert rtc["stun_servers"] == ["127.0.0.1:7882"]


def test_the_address_is_one_of_the_machine_s_own() -> None:
    """It is no loopback, and a socket can be bound to it; a machine may have none."""
    address = own_address()
    if address is not None:
        assert not ipaddress.ip_address(address).is_loopback
        with socket.socket(type=socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))


async def test_where_there_is_none_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the program the reason has the command that installs it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LIVEKIT_URL", raising=False)
    with pytest.raises(NoLiveKit, match="go install github"):
        await start_livekit(tmp_path)


async def test_a_livekit_of_the_user_s_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With LIVEKIT_URL in the environment the node serves that one, and no other is started."""
    monkeypatch.setenv("LIVEKIT_URL", "wss://mine.example")
    with pytest.raises(NoLiveKit, match=r"wss://mine\.example"):
        await start_livekit(tmp_path)


async def test_one_that_does_not_start_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason has the last words of the program, and no process stays."""
    program = tmp_path / PROGRAM
    program.write_text("#!/bin/sh\necho the port is taken >&2\nexit 3\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("LIVEKIT_URL", raising=False)
    with pytest.raises(NoLiveKit, match="the port is taken"):
        await start_livekit(tmp_path)


async def test_the_parts_of_the_demo_are_commands_that_help_does_not_show() -> None:
    """They are there for the tour alone."""
    shown = (await voxplane("--help")).out
    assert "demo-" not in shown
    assert "--room" in (await voxplane("demo-call", "--help")).out
    assert "--port" in (await voxplane("demo-livekit", "--help")).out

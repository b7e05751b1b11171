"""The fast edge under h2spec, the conformance suite of HTTP/2."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from bench.processes import free_port, server
from tests.edge_clients import clients

SECTIONS = ("generic", "hpack", "http2")
RUN_SECONDS_MAX = 100.0
CASES_MIN = 140

EXPLAINED = {
    # RFC 9113 has done away with priorities by dependency: what they say is not looked at.
    "Sends PRIORITY frame that depend on itself",
}


async def test_h2spec(tmp_path: Path) -> None:
    """All of its cases pass, but for those that are explained here; and the
    server answers when they are over."""
    program, report = clients.tool("h2spec"), tmp_path / "report.xml"
    port = free_port()
    async with server(tmp_path, "--edge-listen", f"127.0.0.1:{port}") as running:
        process = await asyncio.create_subprocess_exec(
            *(program, *SECTIONS, "-h", "127.0.0.1", "-p", str(port), "-o", "4", "-j", str(report)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asyncio.wait_for(process.communicate(), RUN_SECONDS_MAX)
        cases = list(ElementTree.parse(report).iter("testcase"))
        failed = {case.get("classname", "") for case in cases if case.find("failure") is not None}
        failed |= {case.get("classname", "") for case in cases if case.find("error") is not None}
        assert len(cases) >= CASES_MIN, said.decode()
        assert failed <= EXPLAINED, said.decode()
        assert "Traceback" not in running.log_end()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read(1)
        writer.close()

"""The fast edge under h2spec, the conformance suite of HTTP/2."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from bench.processes import free_port, server
from tests.edge_clients import clients
from tests.unit.fast_edge import frames

SECTIONS = ("generic", "hpack", "http2")
RUN_SECONDS_MAX = 100.0
CASES_MIN = 140

EXPLAINED = {
    # RFC 9113 has done away with priorities by dependency: what they say is not looked at.
    "Sends PRIORITY frame that depend on itself",
}


async def test_h2spec(tmp_path: Path) -> None:
    """All of its cases pass, but for the one that is explained here; and the
    server answers when they are over."""
    program = clients.tool("h2spec")
    port = free_port()
    async with server(tmp_path, "--edge-listen", f"127.0.0.1:{port}") as running:
        process = await asyncio.create_subprocess_exec(
            *(program, *SECTIONS, "-h", "127.0.0.1", "-p", str(port), "-o", "4"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await asyncio.wait_for(process.communicate(), RUN_SECONDS_MAX)
        said = out.decode(errors="replace")
        total = re.search(r"(\d+) tests, \d+ passed, (\d+) skipped", said)
        assert total is not None, said
        assert (int(total[1]) >= CASES_MIN, total[2]) == (True, "0"), said
        failed = set(re.findall(r"× \d+: (.+)", said.partition("Failures:")[2]))
        assert failed <= EXPLAINED, said
        assert "Traceback" not in running.log_end()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(frames.hello())
        assert await reader.read(1)
        writer.close()

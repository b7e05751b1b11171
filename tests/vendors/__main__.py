"""python -m tests.vendors --port 9099: all vendors by hand, a line of JSON for each request."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.vendors.recording import Recorder
from tests.vendors.server import Vendors

PORT = 9099
EXPLAINED = """OpenAI at {openai}, Deepgram at {deepgram}, Langfuse at {traces}; any key will do.
An utterance is heard as a number, and a reply is made from the schema and the words. To have it otherwise:
  curl {deepgram}/control/transcripts -d '{{"texts": ["hello there"]}}'
  curl {deepgram}/control/replies -d '{{"replies": [{{"fields": {{"score": 3}}}}, {{"text": "Hi."}}]}}'
  curl {deepgram}/control/faults -d '{{"path": "/v1/chat/completions", "fault": "hang", "times": 1}}'
  curl {deepgram}/control/pace -d '{{"first": 0.5, "chunk": 0.02, "speech": 0.2}}'
  curl {deepgram}/control/requests; curl {deepgram}/control/spans; curl -X POST {deepgram}/control/reset
Faults are hang, error and half; with "key" all of this is for one API key alone."""


async def _serve(port: int, socket: Path, *, shown: bool) -> None:
    async with Vendors(port, socket) as vendors:
        told = EXPLAINED.format(openai=vendors.openai_url, deepgram=vendors.url, traces=vendors.traces_url)
        print(told, flush=True)  # noqa: T201
        if shown:
            await _show(vendors.recorder)
        await asyncio.Event().wait()


async def _show(recorder: Recorder) -> None:
    seen = 0
    while True:
        async with recorder.arrived:
            await recorder.arrived.wait()
        # a reset makes the list shorter
        seen = min(seen, len(recorder.requests))
        for request in recorder.requests[seen:]:
            line = {"path": request.path, "query": request.query, "body": request.body}
            print(json.dumps(line, ensure_ascii=False), flush=True)  # noqa: T201
        seen = len(recorder.requests)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.vendors", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--socket", type=Path, help="Unix socket of the control endpoint as well.")
    parser.add_argument("--quiet", action="store_true", help="Do not show the requests.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="voxplane-vendors-") as folder, suppress(KeyboardInterrupt):
        asyncio.run(_serve(given.port, given.socket or Path(folder, "control.sock"), shown=not given.quiet))


if __name__ == "__main__":
    main()

"""python -m tests.vendors --port 9099: both vendors by hand, a JSON line a request."""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import suppress

from tests.vendors.server import Vendors


async def _serve(port: int) -> None:
    async with Vendors(port) as vendors:
        print(f"OpenAI at {vendors.openai_url}, Deepgram at {vendors.url}; any key will do", flush=True)  # noqa: T201
        recorder, shown = vendors.recorder, 0
        while True:
            async with recorder.arrived:
                await recorder.arrived.wait_for(lambda: len(recorder.requests) > shown)  # noqa: B023
            for request in recorder.requests[shown:]:
                line = {"path": request.path, "query": request.query, "body": request.body}
                print(json.dumps(line, ensure_ascii=False), flush=True)  # noqa: T201
            shown = len(recorder.requests)


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.vendors", description=__doc__)
    parser.add_argument("--port", type=int, default=9099)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args().port))


if __name__ == "__main__":
    main()

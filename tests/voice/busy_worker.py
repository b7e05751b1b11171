"""The worker of examples/dynamic_entrypoint.py on a machine that is busy with tests:
python -m tests.voice.busy_worker start. It takes calls all the same."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from dynamic_entrypoint import server
from livekit.agents import cli


def never_full() -> float:
    """The load that LiveKit is told: it offers no call to a worker with more than 0.7."""
    return 0.0


if __name__ == "__main__":
    server.load_fnc = never_full
    cli.run_app(server)

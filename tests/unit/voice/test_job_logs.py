"""What a job's process writes into its logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

from agent_node.daemon import jobs_environment
from agent_node.settings import load_settings

PREPARED = """
import asyncio, logging, threading
import structlog
from agent_node.job.job_logs import configure_job_logs
from agent_node.logs import bind_session

configure_job_logs()
ours = structlog.stdlib.get_logger("agent_node.job.sample")
theirs = logging.getLogger("livekit.agents")
SAID = "my card is " + str(4241 + 1)
"""
SESSION = {
    "tenant_id": "acme",
    "session_id": "s-1",
    "user_id": "ann",
    "agent": "sales",
    "version": 3,
    "revision": 7,
}


def lines_of(program: str, **settings: object) -> list[dict[str, Any]]:
    """The lines that a process of a node with these settings writes."""
    of_node = jobs_environment(load_settings({"node_id": "n-1", **settings}))
    done = subprocess.run(
        [sys.executable, "-c", f"{PREPARED}SESSION = {SESSION!r}\n{textwrap.dedent(program)}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, **of_node},
    )
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_of_a_job_says_whose_it_is() -> None:
    """Ours and LiveKit's, from tasks, callbacks that were made before, and threads."""
    lines = lines_of(
        """
        async def main():
            loop = asyncio.get_running_loop()
            before = asyncio.create_task(say_later())
            loop.call_later(0.01, theirs.warning, "a callback")
            bind_session(**SESSION)
            ours.info("ours")
            theirs.error("theirs")
            thread = threading.Thread(target=theirs.warning, args=("a thread",))
            thread.start()
            thread.join()
            await before
            await asyncio.sleep(0.02)

        async def say_later():
            await asyncio.sleep(0)
            ours.warning("a task of before")

        asyncio.run(main())
        """
    )
    assert {line["event"] for line in lines} == {
        *("ours", "theirs", "a thread", "a task of before", "a callback"),
    }
    for line in lines:
        assert line | SESSION == line
        assert line["node_id"] == "n-1"


def test_a_job_says_as_much_as_its_node() -> None:
    """The node's log_level is that of its jobs too."""
    program = """
        ours.debug("one")
        ours.info("two")
        ours.error("three")
        """
    assert [line["event"] for line in lines_of(program)] == ["two", "three"]
    assert [line["event"] for line in lines_of(program, log_level="error")] == ["three"]
    assert [line["event"] for line in lines_of(program, log_level="debug")] == ["one", "two", "three"]


def test_what_a_line_says_itself_wins() -> None:
    """And what is bound again replaces what was, at once and alone."""
    first, second = lines_of(
        """
        bind_session(**SESSION)
        ours.info("one", session_id="other")
        bind_session(agent="support", version=None)
        ours.info("two")
        """
    )
    assert (first["session_id"], first["agent"], first["version"]) == ("other", "sales", 3)
    assert (second["session_id"], second["agent"], "version" in second) == ("s-1", "support", False)


def test_nothing_that_was_said_comes_into_the_logs_of_a_job() -> None:
    """Neither in a library's words nor in its fields, its exceptions, or those that nobody fetched."""
    lines = lines_of(
        """
        theirs.warning("skipping the reply", extra={"user_input": SAID, "job_id": "job-1"})
        theirs.error(f"failed to generate LLM completion: {SAID}, retrying in 2s")
        theirs.error("failed to say text: %s", ValueError(SAID))
        theirs.info("transcript %s", SAID)
        logging.getLogger("openai").debug(SAID)
        logging.getLogger("somebody.else").warning(f"refused '{SAID}'", stack_info=True)
        try:
            raise ValueError(SAID)
        except ValueError:
            theirs.exception("it broke")
            ours.exception("ours broke")

        async def main():
            async def fails():
                raise ValueError(SAID)
            asyncio.create_task(fails())
            await asyncio.sleep(0)

        asyncio.run(main())
        """
    )
    assert "4242" not in json.dumps(lines)
    events = [line["event"] for line in lines]
    assert events == [
        "skipping the reply",
        "failed to generate LLM completion",
        "failed to say text",
        "refused",
        "it broke (ValueError)",
        "ours broke",
        "Task exception was never retrieved (ValueError)",
    ]
    assert lines[0]["job_id"] == "job-1"
    assert lines[5]["exception"].endswith("ValueError")

"""Proves a bundle before anybody runs it: everything its versions describe is
built and let go of again, off the loop.

A check that hangs is given up after a time and its bundle refused; its thread
cannot be ended, so it is left alone, as a daemon, and no slot waits for it. A
node with too many of them checks no more, and says so.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable

import structlog
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs]

from agent_node.relay.offer import Offer
from voxplane.clock import Clock, SystemClock
from voxplane.errors import Violation, VoxplaneError, to_status
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

Check = Callable[[agent_config_pb2.AgentConfig], None]
"""Raises VoxplaneError if the config cannot be used here; may block."""

CHECKS_AT_ONCE_MAX = 2
STAGING_SECONDS_MAX = 30.0
HUNG_CHECKS_MAX = 8
PROVEN_MAX = 10_000
PATH_PREFIX = "config."

_log = structlog.stdlib.get_logger(__name__)


class Stager:
    """Checks offers, each content once."""

    def __init__(self, check: Check, clock: Clock | None = None) -> None:
        self._check = check
        self._clock = clock or SystemClock()
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._free = asyncio.Semaphore(CHECKS_AT_ONCE_MAX)
        self._hung: set[threading.Thread] = set()
        self._closed = False

    @property
    def hung(self) -> int:
        """Count of checks that were given up and still run."""
        self._hung = {thread for thread in self._hung if thread.is_alive()}
        return len(self._hung)

    def close(self) -> None:
        """Take nothing new."""
        self._closed = True

    def proven(self, offer: Offer) -> bool:
        """Whether all contents of the offer have passed before."""
        return all(content.content_hash in self._proven for content in offer.contents)

    async def refusal(self, offer: Offer) -> status_pb2.Status | None:
        """Why the offer cannot be used; None if it can.

        Violations name fields as `config.llm_config.provider`; ErrorInfo has
        the version's number.
        """
        for number, content in offer.versions():
            if content.content_hash in self._proven:
                self._proven.move_to_end(content.content_hash)
                continue
            error = await self._run(content.config)
            if error is not None:
                return to_status(_in_version(error, number))
            self._proven[content.content_hash] = None
            if len(self._proven) > PROVEN_MAX:
                self._proven.popitem(last=False)
        return None

    async def _run(self, config: agent_config_pb2.AgentConfig) -> VoxplaneError | None:
        async with self._free:
            if self._closed:
                return _failed("the node is stopping")
            if self.hung >= HUNG_CHECKS_MAX:
                return _failed(f"{self.hung} earlier checks hang on this node; restart it")
            thread, done = self._start(config)
            limit = asyncio.create_task(self._clock.sleep(STAGING_SECONDS_MAX))
            try:
                await asyncio.wait({done, limit}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                limit.cancel()
            if done.done():
                return done.result()
            self._hung.add(thread)
            _log.error("a check hangs and is given up", hung=self.hung)
            return _failed(f"building took longer than {STAGING_SECONDS_MAX:g} s")

    def _start(
        self, config: agent_config_pb2.AgentConfig
    ) -> tuple[threading.Thread, asyncio.Future[VoxplaneError | None]]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[VoxplaneError | None] = loop.create_future()

        def settle(error: VoxplaneError | None) -> None:
            if not done.done():
                done.set_result(error)

        def work() -> None:
            error = _outcome(self._check, config)
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, error)

        thread = threading.Thread(target=work, name="staging", daemon=True)
        thread.start()
        return thread, done


def _outcome(check: Check, config: agent_config_pb2.AgentConfig) -> VoxplaneError | None:
    try:
        check(config)
    except VoxplaneError as error:
        return error
    except BaseException as error:
        # what it says may hold what it was given: its type must do
        _log.exception("staging broke")
        return _failed(f"building failed with {type(error).__name__}")
    return None


def _failed(said: str) -> VoxplaneError:
    return VoxplaneError(reason_pb2.ERROR_REASON_BUILD_FAILED, said)


def _in_version(error: VoxplaneError, number: int) -> VoxplaneError:
    return VoxplaneError(
        error.reason,
        f"version {number}: {error.message}",
        violations=[Violation(_from_bundle(v.field), v.description) for v in error.violations],
        metadata={**error.metadata, "version": str(number)},
        retry_after=error.retry_after,
    )


def _from_bundle(path: str) -> str:
    return path if path.startswith(PATH_PREFIX) else PATH_PREFIX + path

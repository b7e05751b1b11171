"""Proves a bundle before anybody runs it: everything its versions describe is
built and let go of again, off the loop."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog
from google.rpc import status_pb2  # pyright: ignore[reportMissingTypeStubs]

from agent_node.relay.offer import Offer
from voxplane.errors import Violation, VoxplaneError, to_status
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2

Check = Callable[[agent_config_pb2.AgentConfig], None]
"""Raises VoxplaneError if the config cannot be used here; may block."""

STAGING_THREADS = 2
STAGING_SECONDS_MAX = 30.0
PROVEN_MAX = 10_000
PATH_PREFIX = "config."

_log = structlog.stdlib.get_logger(__name__)


class Stager:
    """Checks offers, each content once."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._threads = ThreadPoolExecutor(STAGING_THREADS, "staging")
        self._free = asyncio.Semaphore(STAGING_THREADS)

    def close(self) -> None:
        """Take nothing new."""
        self._threads.shutdown(wait=False, cancel_futures=True)

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
        loop = asyncio.get_running_loop()
        try:
            async with self._free, asyncio.timeout(STAGING_SECONDS_MAX):
                await loop.run_in_executor(self._threads, self._check, config)
        except VoxplaneError as error:
            return error
        except TimeoutError:
            return VoxplaneError(
                reason_pb2.ERROR_REASON_BUILD_FAILED, f"building took longer than {STAGING_SECONDS_MAX:g} s"
            )
        except Exception as error:
            _log.exception("staging broke")
            return VoxplaneError(
                reason_pb2.ERROR_REASON_BUILD_FAILED, f"building failed with {type(error).__name__}"
            )
        return None


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

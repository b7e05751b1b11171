"""What a job has still to tell its node: pure.

The rules:

- Answers to commands and a change of agent go first, then statuses, then the
  session's record, then what is to be remembered of it, then figures.
- Of statuses the newest REPORTS_MAX are kept. A record takes the place of the
  one before; turns, items and figures are added up.
- A message holds at most TURNS_PER_MESSAGE_MAX turns and MEMORY_BYTES_MAX of
  items, and an item at least.
"""

from __future__ import annotations

from collections import Counter, deque

from voxplane.node.v1 import relay_service_pb2 as relay_pb2
from voxplane.v1 import session_pb2, session_service_pb2
from voxplane.v1.config_sync_service_pb2 import BundleStatus

REPORTS_MAX = 100
RESULTS_MAX = 100
TURNS_MAX = 1_000
"""Turns that wait; of more the oldest are dropped."""
TURNS_PER_MESSAGE_MAX = 100
ITEMS_MAX = 2_000
"""Items that wait; of more the oldest are dropped."""
MEMORY_BYTES_MAX = 1_048_576


class Outgoing:
    """Messages to the node that wait."""

    def __init__(self) -> None:
        self._results: deque[session_service_pb2.SessionCommandResult] = deque(maxlen=RESULTS_MAX)
        self._follow = ""
        self._statuses: deque[BundleStatus] = deque(maxlen=REPORTS_MAX)
        self._session: session_pb2.Session | None = None
        self._turns: deque[session_pb2.SessionTurn] = deque(maxlen=TURNS_MAX)
        self._items: deque[bytes] = deque(maxlen=ITEMS_MAX)
        self._memory_turns: int | None = None
        self._swaps: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._pss_bytes = 0

    def status(self, status: BundleStatus) -> None:
        """What became of a bundle."""
        self._statuses.append(status)

    def session(self, session: session_pb2.Session, *turns: session_pb2.SessionTurn) -> None:
        """The session as it is now, and turns that have ended."""
        self._session = session
        self._turns.extend(turns)

    def result(self, result: session_service_pb2.SessionCommandResult) -> None:
        """What became of a command."""
        self._results.append(result)

    def memory(self, turns: int, *items: bytes) -> None:
        """What a process that takes this one's place has to know."""
        self._memory_turns = turns
        self._items.extend(items)

    def follow(self, agent_id: str) -> None:
        """Another agent has the session."""
        self._follow = agent_id

    def figures(self, *, swap: str = "", error: str = "", pss_bytes: int = 0) -> None:
        """One more swap or error of a kind, or the process' memory."""
        if swap:
            self._swaps[swap] += 1
        if error:
            self._errors[error] += 1
        self._pss_bytes = pss_bytes or self._pss_bytes

    def next(self) -> relay_pb2.AttachRequest | None:
        """The next message, which then counts as told; None if there is
        nothing to tell."""
        request = relay_pb2.AttachRequest
        if self._results:
            return request(result=self._results.popleft())
        if self._follow:
            agent_id, self._follow = self._follow, ""
            return request(follow=relay_pb2.FollowAgent(agent_id=agent_id))
        if self._statuses:
            return request(status=self._statuses.popleft())
        if self._session is not None:
            return request(session=self._next_session(self._session))
        if self._memory_turns is not None:
            return request(memory=self._next_memory(self._memory_turns))
        if self._swaps or self._errors or self._pss_bytes:
            figures = relay_pb2.JobFigures(swaps=self._swaps, errors=self._errors, pss_bytes=self._pss_bytes)
            self._swaps, self._errors, self._pss_bytes = Counter(), Counter(), 0
            return request(figures=figures)
        return None

    def _next_session(self, session: session_pb2.Session) -> session_service_pb2.SessionReport:
        report = session_service_pb2.SessionReport(session=session)
        while self._turns and len(report.turns) < TURNS_PER_MESSAGE_MAX:
            report.turns.append(self._turns.popleft())
        if not self._turns:
            self._session = None
        return report

    def _next_memory(self, turns: int) -> relay_pb2.SessionMemory:
        memory = relay_pb2.SessionMemory(turns=turns)
        size = 0
        while self._items and (size + len(self._items[0]) <= MEMORY_BYTES_MAX or not memory.items):
            item = self._items.popleft()
            size += len(item)
            memory.items.append(item)
        if not self._items:
            self._memory_turns = None
        return memory

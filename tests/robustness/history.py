"""The record of a run: all that clients did and saw, and what the log says.

A history is a list of records, in the order of time, and a file of it has one
record as JSON in each line. Times are seconds of the machine's monotonic
clock, which all processes share. `At` is a revision with its epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TextIO

from pydantic import Field, TypeAdapter, ValidationError


@dataclass(frozen=True, slots=True)
class At:
    """A revision of a tenant."""

    number: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One attempt of a unary call on agents. `outcome` is `unknown` where the
    call may have happened or not. `etags` are those of the agents in the
    answer by id, `deleted` the ids of those that are out of use; `expected` is
    the etag that was the precondition. A repeat has the request_id of the
    first attempt."""

    start: float
    end: float
    client: str
    call: str
    tenant: str
    agent: str
    outcome: Literal["ok", "refused", "unknown"]
    reason: str = ""
    request_id: str = ""
    arguments: str = ""
    expected: str = ""
    at: At | None = None
    etags: dict[str, str] = field(default_factory=dict[str, str])
    deleted: list[str] = field(default_factory=list[str])
    kind: Literal["operation"] = "operation"

    @property
    def time(self) -> float:
        """When it was known."""
        return self.end


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The request that opened a stream. `stream` names it within the history;
    `watcher` is a client that remembers what it has had. `known` are etags by
    name, `contents` hashes."""

    time: float
    watcher: str
    stream: str
    tenant: str
    agent_ids: list[str] = field(default_factory=list[str])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    node: str = ""
    start_revisions: dict[str, At] = field(default_factory=dict[str, At])
    known: dict[str, str] = field(default_factory=dict[str, str])
    contents: list[str] = field(default_factory=list[str])
    kind: Literal["subscribed"] = "subscribed"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in a message; `contents` are the hashes that it names."""

    name: str
    etag: str
    revision: int
    contents: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Start:
    """What a transfer declares: FULL, DELTA or NONE, and from where."""

    intent: str
    reason: str = ""
    from_revision: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Synced:
    """The end marker of a transfer."""

    digest: str
    count: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """One message of a transfer."""

    tenant: str
    at: At
    start: Start | None = None
    bundles: list[Bundle] = field(default_factory=list[Bundle])
    removed: list[str] = field(default_factory=list[str])
    contents: list[str] = field(default_factory=list[str])
    withheld: dict[str, str] = field(default_factory=dict[str, str])
    synced: Synced | None = None
    tenant_removed: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """One message of a stream: a transfer, a heartbeat (`beat`, revisions by
    tenant), a drain (its reason) or a request of reports."""

    time: float
    stream: str
    stream_id: str
    nonce: str
    transfer: Transfer | None = None
    beat: dict[str, At] | None = None
    drain: str = ""
    missing_sequence: int | None = None
    kind: Literal["received"] = "received"


@dataclass(frozen=True, slots=True)
class Ended:
    """A stream is over: the gRPC code, and the reason of the contract if the
    server gave one. A code of CLIENT is the client's own doing."""

    time: float
    stream: str
    code: str
    reason: str = ""
    kind: Literal["ended"] = "ended"


@dataclass(frozen=True, slots=True)
class Reported:
    """A node's report; `statuses` are (etag, phase) by name. `taken` is
    whether the server has said so."""

    time: float
    stream: str
    stream_id: str
    nonce: str
    sequence: int
    statuses: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    taken: bool = False
    kind: Literal["reported"] = "reported"


@dataclass(frozen=True, slots=True)
class Fault:
    """A mark: something was done to the system."""

    time: float
    fault: str
    phase: Literal["begin", "end"]
    target: str = ""
    kind: Literal["fault"] = "fault"


@dataclass(frozen=True, slots=True)
class EpochBegan:
    """From now on the store has this epoch; the one before is gone."""

    time: float
    epoch: str
    kind: Literal["epoch"] = "epoch"


@dataclass(frozen=True, slots=True)
class AgentIs:
    """An agent after a commit. `labels` and `bundle` are None while it is
    deleted; `contents` are the hashes that its bundle names."""

    etag: str
    deleted: bool = False
    labels: dict[str, str] = field(default_factory=dict[str, str])
    bundle: str = ""
    contents: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Committed:
    """One entry of a tenant's log, as the store has it, and the agents that it
    changed. Hashes are hexadecimal."""

    time: float
    tenant: str
    at: At
    call: str
    request_id: str
    hash: str
    previous_hash: str
    agents: dict[str, AgentIs] = field(default_factory=dict[str, AgentIs])
    kind: Literal["committed"] = "committed"


@dataclass(frozen=True, slots=True)
class Floor:
    """A tenant's history up to this revision is trimmed, seen at this time."""

    time: float
    tenant: str
    at: At
    kind: Literal["floor"] = "floor"


@dataclass(frozen=True, slots=True)
class Held:
    """What a client has of a tenant; etags by name."""

    at: At
    etags: dict[str, str]
    withheld: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Final:
    """What a watcher has at the end, when the system has been left alone.
    `in_step` is since when its stream is in step; 0 if it is not. Daemons are
    watchers too; their streams are not in the history."""

    time: float
    watcher: str
    tenant: str
    agent_ids: list[str] = field(default_factory=list[str])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    held: dict[str, Held] = field(default_factory=dict[str, Held])
    in_step: float = 0.0
    kind: Literal["final"] = "final"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What FetchConfig says of a whole tenant."""

    time: float
    tenant: str
    at: At
    digest: str
    etags: dict[str, str]
    kind: Literal["fetched"] = "fetched"


@dataclass(frozen=True, slots=True)
class Converged:
    """What WaitForConvergence says at the end; `lagging` are node ids."""

    time: float
    tenant: str
    converged: bool
    lagging: list[str] = field(default_factory=list[str])
    kind: Literal["converged"] = "converged"


Record = (
    Operation
    | Subscribed
    | Received
    | Ended
    | Reported
    | Fault
    | EpochBegan
    | Committed
    | Floor
    | Final
    | Fetched
    | Converged
)
History = Sequence[Record]

_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="kind")])


class Recorder:
    """Writes records to a file, one line each, as they come."""

    def __init__(self, file: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self.now = clock

    def put(self, record: Record) -> None:
        """Add a record; it is with the kernel when this returns."""
        self._file.write(_RECORD.dump_json(record).decode() + "\n")
        self._file.flush()


def save(records: Iterable[Record], path: Path) -> None:
    """Write a history."""
    with path.open("wb") as file:
        file.writelines(_RECORD.dump_json(record) + b"\n" for record in records)


def load(path: Path) -> list[Record]:
    """Read a history. The last line may be cut, as its writer may have been
    killed. Raises OSError, and ValueError for any other damage."""
    lines = path.read_bytes().split(b"\n")
    records: list[Record] = []
    for number, line in enumerate(lines):
        if not line:
            continue
        try:
            records.append(_RECORD.validate_json(line))
        except ValidationError as error:
            if number == len(lines) - 1:
                break
            raise ValueError(f"{path} line {number + 1}: {error}") from error
    return records


def merge(histories: Iterable[Iterable[Record]]) -> list[Record]:
    """One history out of many, by time; records of one keep their order."""
    together = [record for history in histories for record in history]
    return sorted(together, key=lambda record: record.time)

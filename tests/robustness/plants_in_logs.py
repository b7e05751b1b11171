"""Errors in calls and in the log to plant in a good history; see plants.py."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

from tests.robustness.history import At, Committed, Operation
from tests.robustness.logs import logs_of
from tests.robustness.places import Records, changed_at


def write_lost(records: Records, chance: random.Random) -> Records | None:
    """The newest entry of a log is gone, and it was acknowledged."""
    logs = logs_of(records)
    acknowledged = {
        (record.request_id, record.at)
        for record in records
        if isinstance(record, Operation) and record.outcome == "ok" and record.request_id
    }
    gone = [
        log.entries[-1]
        for log in logs.by_tenant.values()
        if log.entries and (log.entries[-1].request_id, log.entries[-1].at) in acknowledged
    ]
    if not gone:
        return None
    lost = chance.choice(gone)
    return [record for record in records if record is not lost]


def write_twice(records: Records, chance: random.Random) -> Records | None:
    """A request is carried out again, at the head of the log."""
    logs = logs_of(records)
    entries = [entry for log in logs.by_tenant.values() for entry in log.entries if entry.request_id]
    if not entries:
        return None
    entry = chance.choice(entries)
    head = logs.get(entry.at.epoch, entry.tenant).entries[-1]
    again = replace(
        entry,
        at=At(head.at.number + 1, entry.at.epoch),
        hash="again",
        previous_hash=head.hash,
        agents={},
        time=head.time,
    )
    return [*records, again]


def gap_in_log(records: Records, chance: random.Random) -> Records | None:
    """An entry within the log is gone."""
    logs = logs_of(records)
    inner = [entry for log in logs.by_tenant.values() for entry in log.entries[:-1]]
    if not inner:
        return None
    lost = chance.choice(inner)
    return [record for record in records if record is not lost]


def entry_changed(records: Records, chance: random.Random) -> Records | None:
    """An entry is not what it was when the next was chained to it."""
    logs = logs_of(records)
    inner = [entry for log in logs.by_tenant.values() for entry in log.entries[:-1]]
    if not inner:
        return None
    changed = chance.choice(inner)
    return [
        replace(record, hash="changed") if record is changed and isinstance(record, Committed) else record
        for record in records
    ]


def read_from_the_past(records: Records, chance: random.Random) -> Records | None:
    """A read shows the state before a write that was acknowledged before it."""
    logs = logs_of(records)
    places: list[tuple[int, Operation, int]] = []
    for place, record in enumerate(records):
        if not isinstance(record, Operation) or record.call != "ListAgents" or record.at is None:
            continue
        before = [
            other.at.number
            for other in records
            if isinstance(other, Operation)
            and other.at is not None
            and (other.tenant, other.at.epoch) == (record.tenant, record.at.epoch)
            and other.end < record.start
        ]
        if before and max(before) > 0:
            places.append((place, record, max(before) - 1))
    if not places:
        return None
    place, read, past = chance.choice(places)
    assert read.at is not None
    state = logs.get(read.at.epoch, read.tenant).states[past]
    instead = replace(
        read,
        at=At(past, read.at.epoch),
        etags={agent: what.etag for agent, what in state.items()},
        deleted=[agent for agent, what in state.items() if what.deleted],
    )
    return changed_at(records, place, instead)


def answer_before_the_call(records: Records, chance: random.Random) -> Records | None:
    """A write with a later revision ended before one with an earlier began."""
    logs = logs_of(records)
    known = {
        (record.tenant, record.at): record
        for record in records
        if isinstance(record, Operation) and record.request_id
    }
    pairs = [
        (known[log.tenant, first.at], known[log.tenant, second.at])
        for log in logs.by_tenant.values()
        for first, second in pairwise(log.entries)
        if (log.tenant, first.at) in known and (log.tenant, second.at) in known
    ]
    if not pairs:
        return None
    first, second = chance.choice(pairs)
    late = second.end + 1.0
    return [
        replace(record, start=late, end=late + 0.01)
        if isinstance(record, Operation) and record.request_id == first.request_id
        else record
        for record in records
    ]

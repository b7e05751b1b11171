"""Where in a history errors can be planted."""

from __future__ import annotations

from dataclasses import replace

from tests.robustness.history import Received, Record, Subscribed, Transfer

Records = list[Record]


def transfers(records: Records) -> list[tuple[int, Received, Transfer]]:
    """The transfers that come in one message, with their places."""
    return [
        (place, record, record.transfer)
        for place, record in enumerate(records)
        if isinstance(record, Received)
        and record.transfer is not None
        and record.transfer.start is not None
        and record.transfer.synced is not None
    ]


def deltas(records: Records) -> list[tuple[int, Received, Transfer]]:
    """Those of them that bring changes to a stream that is level already."""
    level: set[tuple[str, str]] = set()
    found: list[tuple[int, Received, Transfer]] = []
    for place, record, transfer in transfers(records):
        key = (record.stream, transfer.tenant)
        if key in level and transfer.start is not None and transfer.start.intent == "DELTA":
            found.append((place, record, transfer))
        level.add(key)
    return found


def firsts(records: Records) -> list[tuple[int, Received, Transfer, Subscribed]]:
    """The first transfers of tenants on their streams that come in one message."""
    requests = streams(records)
    seen: set[tuple[str, str]] = set()
    found: list[tuple[int, Received, Transfer, Subscribed]] = []
    for place, record in enumerate(records):
        if not isinstance(record, Received) or record.transfer is None:
            continue
        transfer, key = record.transfer, (record.stream, record.transfer.tenant)
        if key not in seen and transfer.synced is not None:
            found.append((place, record, transfer, requests[record.stream]))
        seen.add(key)
    return found


def renumbered(records: Records) -> Records:
    """Every stream's messages count from 1."""
    counts: dict[str, int] = {}
    result: Records = []
    for record in records:
        if isinstance(record, Received):
            counts[record.stream] = counts.get(record.stream, 0) + 1
            record = replace(record, nonce=str(counts[record.stream]))
        result.append(record)
    return result


def changed_at(records: Records, place: int, *instead: Record) -> Records:
    """The history with other records at a place."""
    return renumbered([*records[:place], *instead, *records[place + 1 :]])


def streams(records: Records) -> dict[str, Subscribed]:
    """The requests of all streams."""
    return {record.stream: record for record in records if isinstance(record, Subscribed)}

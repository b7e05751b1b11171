"""Errors to plant in a good history, each as a server could make it.

A plant takes a history and chance, and returns the history with one error, or
None where the history has no place for it. What can be made to fit is made to
fit: nonces count on, and a lying server believes itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.robustness import plants_in_logs as logs
from tests.robustness import plants_in_streams as streams
from tests.robustness.findings import Property
from tests.robustness.places import Records

Plant = Callable[[Records, random.Random], Records | None]

PLANTS: dict[Plant, frozenset[Property]] = {
    streams.lost_event: frozenset({Property.RELIABLE, Property.ATOMIC}),
    streams.lost_message: frozenset({Property.RELIABLE, Property.TRUTHFUL, Property.BOOKMARKABLE}),
    streams.lost_removal: frozenset({Property.RELIABLE, Property.ATOMIC}),
    streams.reordered: frozenset({Property.ORDERED}),
    streams.duplicate: frozenset({Property.UNIQUE}),
    streams.duplicate_bundle: frozenset({Property.UNIQUE}),
    streams.torn_revision: frozenset({Property.ATOMIC}),
    streams.stale_full: frozenset({Property.RESUMABLE}),
    logs.write_lost: frozenset({Property.DURABLE}),
    logs.write_twice: frozenset({Property.ONCE}),
    logs.gap_in_log: frozenset({Property.CHAINED}),
    logs.entry_changed: frozenset({Property.CHAINED}),
    logs.read_from_the_past: frozenset({Property.LINEARIZABLE}),
    logs.answer_before_the_call: frozenset({Property.LINEARIZABLE}),
    streams.wrong_digest: frozenset({Property.PROVEN}),
    streams.bookmark_ahead: frozenset({Property.BOOKMARKABLE}),
    streams.not_asked_for: frozenset({Property.FILTERED}),
    streams.other_tenant: frozenset({Property.FILTERED}),
    streams.label_ignored: frozenset({Property.FILTERED}),
    streams.resumed_elsewhere: frozenset({Property.RESUMABLE}),
    streams.resumed_with_nothing: frozenset({Property.RESUMABLE, Property.RELIABLE, Property.ATOMIC}),
    streams.needless_full: frozenset({Property.RESUMABLE}),
    streams.epoch_ignored: frozenset({Property.RESUMABLE}),
    streams.nonce_repeated: frozenset({Property.NUMBERED}),
    streams.skipped_wrong: frozenset({Property.TRUTHFUL}),
    streams.content_missing: frozenset({Property.COMPLETE}),
    streams.uncommitted_shown: frozenset({Property.DURABLE}),
    streams.left_behind: frozenset({Property.CONVERGED}),
    streams.future_refused: frozenset({Property.RESUMABLE}),
    streams.epoch_kept: frozenset({Property.ORDERED, Property.DURABLE}),
}
"""Each plant, and the properties of which at least one must be found broken."""

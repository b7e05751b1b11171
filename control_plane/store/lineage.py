"""Whether a database that is opened goes on where the last process left it.

A process that has ended left a mark (mark.py): with it either the digest of
all heads, after which nothing was committed, or the journal into which it was
committing. What was acknowledged is then in the database and its journal
together, and the database goes on only if both are there:

- A journal holds what was written since the file began a generation. Laid over
  a file of another generation it makes a mixture of two histories: that is
  refused, before anything is written.
- A database without its mark, or whose heads, generation or journal are not
  those of the mark, may have gone back: it gets a new epoch. It is enough that
  it may: a new epoch costs every client one transfer, a kept one leaves some
  with what never was.
"""

from __future__ import annotations

from dataclasses import dataclass

from control_plane.store.identity import Identity
from control_plane.store.mark import Mark


@dataclass(frozen=True, slots=True)
class Seen:
    """What is found on the disk. `settled` is the generation of the file
    alone, None if it cannot be read so; `generation`, `epoch` and `digest`
    are those with the journal, "" where there is none."""

    database: Identity | None
    journal: Identity | None
    settled: str | None
    generation: str
    epoch: str
    digest: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """`restored` says why the database needs a new epoch, `foreign` why its
    journal is not its own; None where it is not so."""

    restored: str | None = None
    foreign: str | None = None


def judge(mark: Mark | None, seen: Seen) -> Verdict:
    """What to make of a database."""
    foreign = _foreign(mark, seen)
    return Verdict(foreign=foreign) if foreign else Verdict(_restored(mark, seen))


def _foreign(mark: Mark | None, seen: Seen) -> str | None:
    if mark and mark.running and seen.journal == mark.journal and seen.database != mark.database:
        return "the file was replaced, its journal was not"
    if seen.settled in (None, seen.generation):
        return None
    # Another program may have written into our journal; then the file is ours.
    if mark and seen.settled in mark.generations:
        return None
    return f"the file is of generation {seen.settled or 'none'}, its journal follows another"


def _restored(mark: Mark | None, seen: Seen) -> str | None:
    if not seen.epoch:
        return "it is new, or a backup"
    if mark is None:
        return "there is no mark beside it, or one that was copied"
    if mark.epoch != seen.epoch:
        return "the mark beside it is of another history"
    if not mark.running:
        return None if seen.digest == mark.digest else "its commits are not those of the last close"
    if seen.generation not in mark.generations:
        return "it is of another generation than the last process has written"
    if seen.journal != mark.journal:
        return "the journal of the last process is gone"
    return None

"""Whether a database goes on where it was left: the rules of lineage.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control_plane.store.identity import Identity
from control_plane.store.lineage import Seen, judge
from control_plane.store.mark import Mark

FILE, JOURNAL, OTHER = Identity(1, 10), Identity(2, 20), Identity(3, 30)
KILLED = Mark("e", True, "", ("r-4",), FILE, JOURNAL)
CLOSED = Mark("e", False, "heads", ("r-4",), None, None)
LEFT = Seen(FILE, JOURNAL, "r-4", "r-4", "e", "heads")


def test_after_a_kill_it_goes_on() -> None:
    """The file, its journal and its generation are those of the mark."""
    verdict = judge(KILLED, LEFT)
    assert (verdict.restored, verdict.foreign) == (None, None)


def test_after_a_close_it_goes_on() -> None:
    """The heads are those of the close; the file may be another and the journal gone."""
    verdict = judge(CLOSED, replace(LEFT, database=OTHER, journal=None))
    assert (verdict.restored, verdict.foreign) == (None, None)


@pytest.mark.parametrize(("settled", "generation"), [("r-4", "r-4"), ("r-4", "r-5"), ("r-5", "r-5")])
def test_a_kill_between_two_generations_is_no_restore(settled: str, generation: str) -> None:
    """While the file changes its generation both are expected, and any mixture
    of them that a kill can leave."""
    mark = replace(KILLED, generations=("r-4", "r-5"))
    verdict = judge(mark, replace(LEFT, settled=settled, generation=generation))
    assert (verdict.restored, verdict.foreign) == (None, None)


def test_a_file_that_needs_its_journal_to_be_read_is_no_restore() -> None:
    """A loss of power may leave the file alone unreadable, and the journal mends it."""
    verdict = judge(KILLED, replace(LEFT, settled=None))
    assert (verdict.restored, verdict.foreign) == (None, None)


@pytest.mark.parametrize(
    ("mark", "seen", "reason"),
    [
        (None, LEFT, "no mark"),
        (CLOSED, replace(LEFT, epoch=""), "a backup"),
        (CLOSED, replace(LEFT, epoch="f"), "another history"),
        (CLOSED, replace(LEFT, digest="other"), "last close"),
        (KILLED, replace(LEFT, settled="r-3", generation="r-3"), "another generation"),
        (KILLED, replace(LEFT, journal=None), "journal of the last process is gone"),
        (KILLED, replace(LEFT, journal=OTHER), "journal of the last process is gone"),
        (KILLED, replace(LEFT, database=OTHER, journal=OTHER), "journal of the last process is gone"),
        # Another program has restored into the database while it was in use.
        (KILLED, replace(LEFT, settled="r-4", generation="q-9"), "another generation"),
    ],
)
def test_what_may_have_gone_back_is_restored(mark: Mark | None, seen: Seen, reason: str) -> None:
    """Whatever does not prove that it goes on gets a new epoch, and says why."""
    verdict = judge(mark, seen)
    assert verdict.foreign is None
    assert reason in (verdict.restored or "")


@pytest.mark.parametrize(
    ("mark", "seen"),
    [
        # A backup was moved over the file of a process that was killed.
        (KILLED, replace(LEFT, database=OTHER)),
        # A backup was written into that file.
        (KILLED, replace(LEFT, settled="r-3")),
        (KILLED, replace(LEFT, settled="q-3")),
        (KILLED, replace(LEFT, settled="")),
        (None, replace(LEFT, settled="r-3")),
    ],
)
def test_a_journal_of_another_file_is_refused(mark: Mark | None, seen: Seen) -> None:
    """A journal is not laid over a file that it does not follow."""
    assert judge(mark, seen).foreign

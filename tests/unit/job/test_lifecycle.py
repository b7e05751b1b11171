"""The life of a config in a session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_node.job.lifecycle import FINAL, TRANSITIONS, InvalidStepError, Phase, Step, advance


@given(st.lists(st.sampled_from(Step), max_size=12))
def test_every_life_follows_the_order(steps: list[Step]) -> None:
    """Whatever steps are tried, a config is ACTIVE only after WARM, DRAINING only
    after ACTIVE, and never leaves FAILED or RETIRED."""
    phase, life = Phase.STAGING, [Phase.STAGING]
    for step in steps:
        try:
            phase = advance(phase, step)
        except InvalidStepError:
            assert step not in TRANSITIONS[phase]
            continue
        assert life[-1] not in FINAL
        life.append(phase)
    order = [Phase.STAGING, Phase.WARM, Phase.ACTIVE, Phase.DRAINING, Phase.RETIRED]
    ranks = [order.index(each) for each in life if each is not Phase.FAILED]
    assert ranks == sorted(set(ranks))
    if Phase.ACTIVE in life:
        assert Phase.WARM in life
        assert Phase.FAILED not in life
    if Phase.DRAINING in life:
        assert Phase.ACTIVE in life


def test_the_table_is_complete() -> None:
    """Every phase is in the table and can be reached from STAGING."""
    reached, frontier = {Phase.STAGING}, [Phase.STAGING]
    while frontier:
        for phase in TRANSITIONS[frontier.pop()].values():
            if phase not in reached:
                reached.add(phase)
                frontier.append(phase)
    assert reached == set(Phase) == set(TRANSITIONS)
    assert {Phase.RETIRED, Phase.FAILED} == FINAL


def test_a_wrong_step_is_an_error() -> None:
    """A config that failed cannot be applied."""
    with pytest.raises(InvalidStepError, match="failed cannot be applied"):
        advance(Phase.FAILED, Step.APPLIED)

"""The life of one config in one session, as a table.

STAGING is built and checked; WARM waits for a turn boundary; ACTIVE makes the
replies; DRAINING is replaced, and held by what still speaks; RETIRED is closed.
FAILED could not be built or applied. A config that is overtaken before it was
ACTIVE is RETIRED without having been used.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Phase(Enum):
    """How far a config has come."""

    STAGING = "staging"
    WARM = "warm"
    ACTIVE = "active"
    DRAINING = "draining"
    RETIRED = "retired"
    FAILED = "failed"


class Step(Enum):
    """What happens to a config."""

    BUILT = "built"
    REFUSED = "refused"
    APPLIED = "applied"
    OVERTAKEN = "overtaken"
    REPLACED = "replaced"
    DRAINED = "drained"


TRANSITIONS: Mapping[Phase, Mapping[Step, Phase]] = {
    Phase.STAGING: {
        Step.BUILT: Phase.WARM,
        Step.REFUSED: Phase.FAILED,
        Step.OVERTAKEN: Phase.RETIRED,
    },
    Phase.WARM: {
        Step.APPLIED: Phase.ACTIVE,
        Step.REFUSED: Phase.FAILED,
        Step.OVERTAKEN: Phase.RETIRED,
    },
    Phase.ACTIVE: {Step.REPLACED: Phase.DRAINING},
    Phase.DRAINING: {Step.DRAINED: Phase.RETIRED},
    Phase.RETIRED: {},
    Phase.FAILED: {},
}

FINAL = frozenset(phase for phase, steps in TRANSITIONS.items() if not steps)


class InvalidStepError(Exception):
    """A step that the table does not have; the config stays as it was."""


def advance(phase: Phase, step: Step) -> Phase:
    """The phase after a step. Raises InvalidStepError."""
    try:
        return TRANSITIONS[phase][step]
    except KeyError:
        raise InvalidStepError(f"{phase.value} cannot be {step.value}") from None

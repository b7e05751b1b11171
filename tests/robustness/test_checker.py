"""The checker finds what is wrong with a history, and nothing in a good one."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.robustness.checker import check
from tests.robustness.findings import Property
from tests.robustness.history import load, save
from tests.robustness.plants import PLANTS, Plant
from tests.robustness.simulated import Simulation

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_good_history_is_accepted(seed: int) -> None:
    """The checker raises no false alarm."""
    assert check(Simulation(seed).run()).violations == []


def test_good_histories_touch_every_property() -> None:
    """No property is accepted for want of anything to look at."""
    checked: Counter[Property] = Counter()
    for seed in range(40):
        checked += check(Simulation(seed).run()).checked
    assert min(checked[which] for which in Property) > 20


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
@given(seed=SEEDS, chance=SEEDS)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_planted_error_is_found(plant: Plant, seed: int, chance: int) -> None:
    """Each error is found, wherever it is planted, as what it is."""
    planted = plant(Simulation(seed).run(), random.Random(chance))
    assume(planted is not None)
    assert planted is not None
    assert check(planted).violated & PLANTS[plant]


def test_a_history_is_the_same_when_it_is_loaded_again(tmp_path: Path) -> None:
    """A history that was saved is judged alike."""
    history = Simulation(7).run()
    save(history, tmp_path / "history.jsonl")
    assert load(tmp_path / "history.jsonl") == history


def test_a_history_whose_writer_was_killed_can_be_loaded(tmp_path: Path) -> None:
    """A line that was cut at the end is left out; one in the middle is an error."""
    history = Simulation(7).run()
    path = tmp_path / "history.jsonl"
    save(history, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert load(path) == history[:-1]
    path.write_bytes(whole[:-20] + b"\n" + whole)
    with pytest.raises(ValueError, match="line"):
        load(path)

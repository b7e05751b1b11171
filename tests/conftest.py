"""What all tests have in common."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option --long."""
    parser.addoption("--long", action="store_true", help="faults that last for a minute, larger herds")


@pytest.fixture
def long_mode(request: pytest.FixtureRequest) -> bool:
    """Whether a test may take minutes."""
    return bool(request.config.getoption("--long"))


@pytest.fixture
def long_only(long_mode: bool) -> None:
    """Skips a test that takes minutes. Name it before fixtures that cost."""
    if not long_mode:
        pytest.skip("with --long")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that is run in this process does not leave its handler to the tests after it."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)

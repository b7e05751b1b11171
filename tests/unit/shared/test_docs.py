"""The documentation names what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEST = re.compile(r"\btest_\w+")
LINK = re.compile(r"\]\(([^)#:]+)\)")


def _tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found.add(path.stem)
        found.update(re.findall(r"def (test_\w+)", path.read_text()))
    return found


def test_the_tests_that_a_page_names_exist() -> None:
    """A promise in docs/watch.md cannot lose its test without a word."""
    named = set(TEST.findall((ROOT / "docs" / "watch.md").read_text()))
    assert len(named) > 30
    assert named <= _tests()


@pytest.mark.parametrize(
    "page", [str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")] + ["README.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    """Every link to a file of the project has its file."""
    path = ROOT / page
    links = LINK.findall(path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []

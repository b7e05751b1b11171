"""The vendors, and a context with a key for each."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agent_node.providers import BuildContext, SecretResolver, new_context
from tests.vendors import Vendors

KEYS = {
    "CARTESIA_API_KEY": "c" * 20,
    "DEEPGRAM_API_KEY": "d" * 20,
    "OPENAI_API_KEY": "o" * 20,
    "SECOND_API_KEY": "s" * 20,
}


@pytest.fixture
async def vendors() -> AsyncIterator[Vendors]:
    """Both vendors, on a free port."""
    async with Vendors() as servers:
        yield servers


@pytest.fixture
async def context() -> AsyncIterator[BuildContext]:
    """A context with the keys, which leaves no client open."""
    built = new_context(SecretResolver(environ=KEYS))
    yield built
    assert len(built.clients) == 0
    await built.aclose()

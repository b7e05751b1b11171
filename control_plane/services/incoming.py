"""The messages of a client's stream, where its transport can hand them over
without a turn of the call's task for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Take = Callable[[Any], bool]
"""Takes a message of a client's stream if it can do so at once; else returns
False, and nothing has happened. The iterator of such messages may have
`take_at_once(take)`: messages that come while it is waited for go to `take`
first, and are given out if that refuses them."""


def take_at_once(requests: object, take: Take) -> None:
    """Have messages of a client's stream taken as they come, where its transport
    can do that."""
    offer = getattr(requests, "take_at_once", None)
    if offer is not None:
        offer(take)

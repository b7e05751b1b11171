"""A conversation as it is left with the node, for the process that takes the
place of one that dies."""

from __future__ import annotations

from collections.abc import Iterable

import structlog
from livekit.agents.llm import ChatContext, ChatItem
from pydantic import TypeAdapter, ValidationError

ITEM_BYTES_MAX = 65_536
"""Of an item; a larger one is not remembered."""
_SAID = frozenset({"message", "function_call", "function_call_output"})

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Memory:
    """What of a conversation the node knows already."""

    def __init__(self, known: Iterable[ChatItem] = ()) -> None:
        self._known = {item.id for item in known}

    def news(self, history: ChatContext) -> list[bytes]:
        """The items that the node does not know, in order; it then does."""
        items = [item for item in history.items if item.type in _SAID and item.id not in self._known]
        self._known.update(item.id for item in items)
        written = (_ADAPTER.dump_json(item) for item in items)
        return [item for item in written if len(item) <= ITEM_BYTES_MAX]


def recalled(items: Iterable[bytes]) -> list[ChatItem]:
    """The conversation that was left; items that cannot be read are skipped."""
    found: list[ChatItem] = []
    for item in items:
        try:
            found.append(_ADAPTER.validate_json(item))
        except ValidationError:
            _log.warning("a part of the conversation could not be taken over")
    return found


_ADAPTER: TypeAdapter[ChatItem] = TypeAdapter(ChatItem)

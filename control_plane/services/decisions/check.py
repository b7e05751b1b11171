"""What a config must be to be stored."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial

import cachetools

from control_plane.state import Postponed
from voxplane.digest import content_hash
from voxplane.errors import Violation, VoxplaneError
from voxplane.secrets import LITERAL, has_known_key
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.validation import check_config, violations_of_message
from voxplane.validation_parts import are_good, unjudged_parts

CONFIG_BYTES_MAX = 1_048_576
REFUSALS_MAX = 256
_FIELD = "config"
_refusals: cachetools.LRUCache[str, VoxplaneError] = cachetools.LRUCache(REFUSALS_MAX)
"""By content hash, of configs that take long to judge."""
_lock = threading.Lock()


def check(config: agent_config_pb2.AgentConfig) -> None:
    """Raises VoxplaneError with all that is wrong; paths begin at `config`.
    Raises Postponed if that takes long to find out, and is not known yet."""
    if config.ByteSize() > CONFIG_BYTES_MAX:
        raise _invalid([Violation(_FIELD, f"must have at most {CONFIG_BYTES_MAX} bytes")])
    parts = unjudged_parts(config)
    if not any(part.is_long for part in parts):
        if not are_good(parts):
            _judge(config)
        return
    with _lock:
        refusal = _refusals.get(content_hash(config))
    if refusal is None:
        raise Postponed(partial(_find_out, config))
    raise VoxplaneError(refusal.reason, refusal.message, violations=refusal.violations)


def check_words(words: Mapping[str, str]) -> None:
    """Raises VoxplaneError SECRET_LITERAL if there is a key in what was written
    beside the config, by paths of the request."""
    found = [Violation(path, LITERAL) for path, text in words.items() if text and has_known_key(text)]
    if found:
        raise VoxplaneError(
            reason_pb2.ERROR_REASON_SECRET_LITERAL,
            f"a secret is not to be stored: {found[0].field}: {found[0].description}",
            violations=found,
        )


def _find_out(config: agent_config_pb2.AgentConfig) -> None:
    if are_good(unjudged_parts(config)):
        return
    try:
        _judge(config)
    except VoxplaneError as refusal:
        with _lock:
            _refusals[content_hash(config)] = refusal.with_traceback(None)


def _judge(config: agent_config_pb2.AgentConfig) -> None:
    violations = [
        Violation(f"{_FIELD}.{found.field}" if found.field else _FIELD, found.description)
        for found in violations_of_message(config)
    ]
    if violations:
        raise _invalid(violations)
    check_config(config, prefix=f"{_FIELD}.")


def _invalid(violations: list[Violation]) -> VoxplaneError:
    return VoxplaneError(
        reason_pb2.ERROR_REASON_INVALID_REQUEST, "the config breaks the contract", violations=violations
    )

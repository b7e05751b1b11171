"""What a config must be to be stored."""

from __future__ import annotations

from voxplane.errors import Violation, VoxplaneError
from voxplane.v1 import agent_config_pb2
from voxplane.v1 import error_reason_pb2 as reason_pb2
from voxplane.validation import check_config, violations_of_message

CONFIG_BYTES_MAX = 1_048_576
_FIELD = "config"


def check(config: agent_config_pb2.AgentConfig) -> None:
    """Raises VoxplaneError with all that is wrong; paths begin at `config`."""
    if config.ByteSize() > CONFIG_BYTES_MAX:
        raise _invalid([Violation(_FIELD, f"must have at most {CONFIG_BYTES_MAX} bytes")])
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

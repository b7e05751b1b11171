"""What commands print: text for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console

out = Console(highlight=False, soft_wrap=True)


def to_dict(message: Message) -> dict[str, Any]:
    """The message as JSON values, by the names of the contract."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def print_json(value: object) -> None:
    """One JSON document on stdout, not folded or coloured."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()

"""The address of a tool, taken apart."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote_plus

PORT_MAX = 65_535
PORTS = {"http": 80, "https": 443}

_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#\s]*)?(?:\?(?P<query>[^#\s]*))?"
)
_NAMED = re.compile(r"\{([^{}]*)\}")


class Origin(NamedTuple):
    """Whose address it is. The host is in lower case, without brackets and
    without a last dot."""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ToolUrl:
    """An address whose path and query may have {name} for parameters. The path
    begins with a slash."""

    origin: Origin
    path: str
    query: str

    @property
    def names(self) -> list[str]:
        """The parameters that it names, in order."""
        return [*named_in(self.path), *named_in(self.query)]

    @property
    def query_names(self) -> frozenset[str]:
        """The names that its own query has."""
        pairs = self.query.split("&") if self.query else []
        return frozenset(unquote_plus(pair.partition("=")[0]) for pair in pairs)


def named_in(text: str) -> list[str]:
    """The names in braces, in order."""
    return _NAMED.findall(text)


def pieces_of(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is a name that stood in braces."""
    for index, piece in enumerate(_NAMED.split(text)):
        if piece or index % 2:
            yield piece, bool(index % 2)


def split_url(url: str) -> ToolUrl:
    """The address' parts. Raises ValueError with what is wrong with it."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError("must be an http or https URL whose host is a DNS name or an IP address")
    scheme, host = found["scheme"], found["host"]
    port = int(found["port"]) if found["port"] else PORTS[scheme]
    if not 0 < port <= PORT_MAX:
        raise ValueError(f"has a port that is not 1 to {PORT_MAX}")
    path, query = found["path"] or "/", found["query"] or ""
    if any(brace in _NAMED.sub("", path + query) for brace in "{}"):
        raise ValueError("has a brace that belongs to no parameter")
    return ToolUrl(Origin(scheme, _host(host), port), path, query)


def _host(text: str) -> str:
    host = text.strip("[]").lower().rstrip(".")
    numeric = text.startswith("[") or host.replace(".", "").isdigit()
    try:
        # short forms such as 127.1 mean different hosts to different libraries
        return str(ipaddress.ip_address(host)) if numeric else _dns(host)
    except ValueError:
        raise ValueError("has a host that is no IP address and no DNS name") from None


def _dns(host: str) -> str:
    if not host or any(not label or len(label) > 63 for label in host.split(".")) or len(host) > 253:
        raise ValueError(host)
    return host

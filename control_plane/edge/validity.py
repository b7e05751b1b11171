"""When a certificate expires: the one field of it that ssl does not tell of one's own."""

from __future__ import annotations

import datetime

_VERSION, _UTC_TIME = 0xA0, 0x17
_LONG_FORM = 0x80


def not_after(der: bytes) -> datetime.datetime:
    """The end of a certificate's validity (RFC 5280, 4.1.2.5). Raises IndexError
    or ValueError if it is no certificate."""
    _, at, _ = _read(der, 0)
    _, at, _ = _read(der, at)
    tag, _, end = _read(der, at)
    if tag == _VERSION:
        at = end
    for _ in ("serial number", "signature", "issuer"):
        _, _, at = _read(der, at)
    _, at, _ = _read(der, at)
    _, _, at = _read(der, at)  # not before
    tag, begin, end = _read(der, at)
    text = der[begin:end].decode("ascii")
    if tag == _UTC_TIME:
        # Two digits of the year, which begin at 1950.
        text = ("20" if int(text[:2]) < 50 else "19") + text
    return datetime.datetime.strptime(text, "%Y%m%d%H%M%S%z")


def _read(der: bytes, at: int) -> tuple[int, int, int]:
    """An element's tag, and where its content begins and ends."""
    tag, length, at = der[at], der[at + 1], at + 2
    if length & _LONG_FORM:
        size = length & ~_LONG_FORM
        length, at = int.from_bytes(der[at : at + size], "big"), at + size
    return tag, at, at + length

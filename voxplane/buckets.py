"""A caller's bucket: the same in every process and language, for as long as the
caller and the salt are the same."""

from __future__ import annotations

from hashlib import sha256

BUCKETS = 10_000
"""A bucket is a hundredth of a percent of all callers."""


def bucket(salt: str, key: str) -> int:
    """The bucket, 0 to 9,999, of a caller who is known by `key`.

    The first eight bytes of the SHA-256 of salt, a zero byte and key, as a
    number, modulo BUCKETS. Another salt deals the callers out anew.
    """
    hashed = sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(hashed[:8]) % BUCKETS


def takes_part(key: str, percent: float, salt: str = "voxplane") -> bool:
    """Whether a caller is among `percent` of all callers. Who is once in stays in
    while the share grows. A caller without a key is never in.

    Raises ValueError if percent is not from 0 to 100.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent: {percent} is not from 0 to 100")
    return bool(key) and bucket(salt, key) < percent / 100 * BUCKETS

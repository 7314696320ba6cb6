"""Seeds of further streams of random numbers, where a program has one seed."""

import hashlib


def derived(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, from 0 to 2^63 - 1.

    Neighbouring seeds, and numbers counted up from a seed, are what other SAEs of the same run have for their own; a
    digest lies far from all of them.
    """
    return int.from_bytes(hashlib.sha256(repr((seed, *purpose)).encode()).digest()[:8]) >> 1

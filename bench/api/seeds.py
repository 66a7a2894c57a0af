"""Seeds and generators derived from words, the same on every machine."""

from __future__ import annotations

import hashlib

import numpy as np


def generator_of(text: str) -> np.random.Generator:
    """Return a NumPy generator seeded by the SHA-256 of a text."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()))


def seed_of_words(*words: object) -> int:
    """Return a 63-bit seed derived from words."""
    text = "\x1f".join(map(str, words))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def seed_of_numbers(*numbers: int) -> int:
    """Return a seed below 2 ** 63 derived from non-negative integers."""
    return int(np.random.default_rng(numbers).integers(2**63))

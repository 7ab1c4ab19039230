"""Keyed randomness: every draw is a function of (seed, purpose, round, client), never of what was drawn before.

Hence a run resumed at round k, or carried out by other machines, samples the same clients and the same batches.
Streams are NumPy's Philox, a counter-based generator (Salmon et al., SC 2011), under a 128-bit key hashed from the words.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence


def key(seed: int, *words: str | int) -> int:
    """The 128-bit key of a stream: BLAKE2b over the seed and the words, each tagged with its type and length."""
    digest = hashlib.blake2b(digest_size=16)
    for word in (seed, *words):
        text = str(word).encode()
        digest.update(b"%c%d:" % (b"s" if isinstance(word, str) else b"i", len(text)))
        digest.update(text)
    return int.from_bytes(digest.digest(), "little")


def rng(seed: int, *words: str | int) -> np.random.Generator:
    """The stream of these words, from its beginning: `rng(seed, "sample", round)`, `rng(seed, "batches", round, client)`."""
    return np.random.Generator(np.random.Philox(_Key(key(seed, *words))))  # type: ignore[arg-type]


class _Key(ISeedSequence):
    """Hands Philox its key as it is. `Philox(key=...)` does the same, but asks the system for entropy first, which takes longer."""

    def __init__(self, key: int) -> None:
        self.words = np.frombuffer(key.to_bytes(16, "little"), dtype="<u8")

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> np.ndarray:
        return self.words[:n_words]


def seed_torch(seed: int, *words: str | int, device: torch.device | None = None) -> None:
    """Start torch's own generator (dropout, weight initialisation) on the stream of these words.

    Only the generators that will be drawn from are set: the CPU's, and the CUDA device's when one is named;
    `torch.manual_seed` would visit every backend, which costs more than a small training step.
    """
    value = key(seed, *words) & 0xFFFF_FFFF_FFFF_FFFF
    torch.default_generator.manual_seed(value)
    if device is not None and device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(value)

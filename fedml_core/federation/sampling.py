"""Which clients take part in a round."""

from __future__ import annotations

from collections.abc import Sequence

from fedml_core.rng import rng


def sample_clients(ids: Sequence[str], count: int, seed: int, round: int) -> list[str]:
    """`count` of `ids`, uniformly without replacement, in the order of `ids`: S_t of McMahan et al., AISTATS 2017, Algorithm 1.

    A function of (seed, round) alone: other rounds, and what was drawn for them, have no influence.
    """
    chosen = rng(seed, "sample", round).choice(len(ids), size=count, replace=False, shuffle=False)
    return [ids[i] for i in sorted(chosen.tolist())]

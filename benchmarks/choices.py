"""Is what `auto` chooses about as fast as the best choice by hand?

    python -m benchmarks.choices            # every workload of benchmarks/simulation.py
    python -m benchmarks.choices W3 W5      # some

On each workload `auto` and a grid of executors and processes take turns of a few rounds in one call; a line has the median of each
as a ratio to the best of the grid. Exit status 1 if `auto` is more than 10 % behind it. A single round at a time would not do: one
that comes after a long round of another finds caches cold and threads asleep, whatever its setting.
"""

from __future__ import annotations

import sys

from benchmarks.simulation import Workload, measure, selected
from fedml_api.standalone import Standalone

WITHIN, TURN = 1.10, 4


def grid(work: Workload) -> dict[str, Standalone]:
    """What one would try by hand; stacked convolutions and recurrent networks are far slower, and take minutes to find that out."""
    found = {}
    for processes in (1, 2):
        stacks = work.name.startswith(("W3", "W5"))
        for executor in ("sequential", "traced", *(("stacked",) if stacks else ())):
            if (work.name, executor) in {("W2", "traced"), ("W3-1000", "sequential"), ("W3-1000", "traced")}:
                continue
            share = len(work.sizes) // processes
            blocks = [5, *(block for block in (10, 25, 128) if block <= share)] if executor == "stacked" else [None]
            for block in blocks:
                name = f"{executor}{f' in {block}s' if block else ''}, {processes} process{'es' * (processes > 1)}"
                found[name] = Standalone(executor=executor, block=block, processes=processes)  # type: ignore[arg-type]
    return found


def main(names: list[str]) -> int:
    behind = 0
    for work in selected(names):
        engines = {"auto": Standalone()} | grid(work)
        rounds = max(work.rounds, 40 if work.name.startswith(("W3", "W5")) else 0)
        row = measure(work, {name: (engine, None) for name, engine in engines.items()}, rounds, turn=TURN, by_hand=False)
        best = min(row[name] for name in engines if name != "auto")
        behind += row["auto"] > WITHIN * best
        ranked = sorted(engines, key=lambda name: row[name])
        print(f"{work.name}: " + "; ".join(f"{name} {row[name] / best:.2f}" for name in ranked), flush=True)
    return int(behind > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

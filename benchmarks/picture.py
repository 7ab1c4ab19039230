"""The picture of a table: python -m benchmarks.simulation | python -m benchmarks.picture docs/speed.png"""

from __future__ import annotations

import json
import sys
from typing import Any

from benchmarks.simulation import WORKLOADS

# Longer bars are cut off here; the number beside them is right.
END = 1.2
WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}


def draw(rows: list[dict[str, Any]], path: str) -> None:
    """Bars of the time of a round relative to the naive loop, and the goals as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    works = {work.name: work for work in WORKLOADS}
    names = [name for name in rows[0] if not name.startswith("first ") and name not in ("workload", "naive")]
    names += [name for row in rows for name in row if name == "bf16" and name not in names]
    names = sorted(set(names), key=lambda name: ({"lean": 0, "ours": 8, "bf16": 9}.get(name, 4), name))
    labels = {
        "ours": "ours (auto)",
        "bf16": "ours, bfloat16",
        "lean": "lean loop by hand",
        "fedjax": "FedJAX",
        "flower": "Flower",
        "pfl": "pfl-research",
    }
    colours = {"ours": "#1f6f8b", "bf16": "#8fc1d4", "lean": "#c8c8c8", "fedjax": "#e0b060", "flower": "#d99a9a", "pfl": "#9ab88a"}
    figure, axes = plt.subplots(figsize=(9, 1.0 + (0.3 + 0.17 * len(names)) * len(rows)), layout="constrained")
    height = 0.8 / len(names)
    for i, row in enumerate(rows):
        for j, name in enumerate(names):
            if name in row:
                ratio, place = row[name] / row["naive"], i + (j - (len(names) - 1) / 2) * height
                axes.barh(place, min(ratio, END), height * 0.9, color=colours.get(name, f"C{j}"), label=labels.get(name, name))
                axes.text(
                    min(ratio, END) + 0.008,
                    place,
                    f"{ratio:.2f}" if ratio > 0.1 else f"{ratio:.3f}",
                    va="center",
                    fontsize=8,
                    bbox=WHITE,
                )
        goal = works[row["workload"]].goal
        axes.plot([goal, goal], [i - 0.45, i + 0.45], color="#b03a2e", linewidth=1.4, label="goal")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [f"{row['workload'].split('-')[0]}  {works[row['workload']].title}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, END + 0.06)
    axes.set_xlabel("time per round, as a part of what the naive loop needs")
    axes.spines[["top", "right"]].set_visible(False)
    handles, seen = axes.get_legend_handles_labels()
    kept = dict(zip(seen, handles, strict=True))
    figure.legend(kept.values(), kept.keys(), loc="outside lower center", ncols=len(kept), fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)


def main(path: str) -> int:
    for line in sys.stdin:
        print(line, end="")
        if line.startswith("["):
            draw(json.loads(line), path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

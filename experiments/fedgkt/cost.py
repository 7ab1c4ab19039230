"""What FedGKT costs a client, and what it sends, beside FedAvg of the large network.

    python -m experiments.fedgkt.cost

Counted on networks as they are built, and on the reply of one client to one round. The paper's figures are those of its section 4.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from experiments.fedgkt.__main__ import size
from fedml_api.algorithms.fedgkt import TrainEdge, edge_of, numbers
from fedml_api.model import CNNInParts, ResNetInParts
from fedml_api.model.cost import cost
from fedml_api.model.in_parts import InPartsSpec
from fedml_api.model.model_spec import Shape
from fedml_core.federation import Client, LocalSGD, Workspace
from fedml_core.trainer import Classifier, Examples

ROWS: dict[str, tuple[InPartsSpec, Shape, str]] = {
    "ResNet-8, of ResNet-56": (ResNetInParts(depth=56), (3, 32, 32), "9, 54"),
    "ResNet-8, of ResNet-110": (ResNetInParts(depth=110), (3, 32, 32), "17, 105"),
    "small CNN": (CNNInParts(), (1, 28, 28), "–"),
}


def sent(spec: InPartsSpec, shape: Shape) -> int:
    """Bytes that a client sends in a round for each of its examples."""
    network, examples = spec.build(shape, 10), Examples({"x": torch.randn(8, *shape), "y": torch.arange(8)})
    client = Client("a", 0, 0, examples, lambda _: examples, Classifier(), Workspace(network))
    own = {"edge": numbers(edge_of(network, "a")), "answers": None}
    return size(TrainEdge(LocalSGD(lr=0.1), 1.0, 3.0)(client, {}, own).value) // len(examples)


def main() -> None:
    print(
        "| edge network | MFLOP per example | of the large | parameters | of the large | fewer (FLOPs, parameters) | paper |",
        end="",
    )
    print(" sent per example | FedAvg sends | as many bytes at |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, (spec, shape, paper) in ROWS.items():
        large, edge = (cost(replace(spec, part=part).build(shape, 10), shape) for part in ("large", "edge"))
        fewer = f"{large.flops / edge.flops:.1f}, {large.parameters / edge.parameters:.1f}"
        each = sent(spec, shape)
        cells = [
            f"{edge.flops / 1e6:.2f}",
            f"{large.flops / 1e6:.2f}",
            f"{edge.parameters:,}",
            f"{large.parameters:,}",
            fewer,
            paper,
        ]
        cells += [f"{each / 1e3:.2f} kB", f"{4 * large.parameters / 1e3:,.0f} kB", f"{4 * large.parameters / each:.0f} examples"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

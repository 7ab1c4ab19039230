"""What a run of FedGAN generates: a picture of samples, and how far they are from real digits.

    python -m experiments.fedgan.samples RUN ...

A classifier, trained here on the 4,000 training digits, looks at as many generated images as there are test digits:

    distance   Frechet distance between its last hidden layers (Heusel et al., NeurIPS 2017, who take Inception's)
    sure       mean of its largest class probability
    classes    exp of the entropy of the classes it sees: 10 if all come equally often
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor, nn

from fedml_api.model import McMahanCNN
from fedml_api.run.config import prepare
from fedml_api.run.folder import RunFolder
from fedml_core import rng
from fedml_core.errors import RunError
from fedml_core.trainer import Examples


def classifier(train: Examples, epochs: int = 3) -> nn.Sequential:
    """A network that tells the digits apart; its last layer is the logits, the one before what distances are measured in."""
    rng.seed_torch(0, "classifier")
    network = McMahanCNN(channels=8).build((1, 28, 28), 10)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    batch = train.all()
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(network(batch["x"][rows]), batch["y"][rows]).backward()
            optimizer.step()
    assert isinstance(network, nn.Sequential)
    return network.eval()


def frechet(a: Tensor, b: Tensor) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two samples `[n, d]` taken as Gaussians."""
    means = (a.double().mean(0) - b.double().mean(0)).square().sum()
    one, other = np.cov(a.double().numpy(), rowvar=False), np.cov(b.double().numpy(), rowvar=False)
    # The eigenvalues of a product of two covariances are real and not negative, but for rounding.
    roots = np.sqrt(np.clip(np.linalg.eigvals(one @ other).real, 0, None)).sum()
    return float(means + np.trace(one) + np.trace(other) - 2 * roots)


@torch.no_grad()
def score(images: Tensor, network: nn.Sequential, real: Tensor) -> dict[str, float]:
    """Distance, sureness and number of classes of some images."""
    found, wanted = network[:-1](images), network[:-1](real)
    shares = network[-1](found).softmax(1)
    seen = torch.bincount(shares.argmax(1), minlength=10).double() / len(images)
    classes = torch.special.entr(seen).sum().exp()
    return {"distance": frechet(found, wanted), "sure": float(shares.max(1).values.mean()), "classes": float(classes)}


def draw(images: Tensor, path: Path, columns: int = 16) -> None:
    """A sheet of images `[n, 1, h, w]`, ink dark on white."""
    rows = len(images) // columns
    sheet = images[: rows * columns, 0].unflatten(0, (rows, columns)).permute(0, 2, 1, 3).flatten(0, 1).flatten(1)
    figure = Figure(figsize=(columns * 0.45, rows * 0.45), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(1 - sheet.numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.fedgan.samples", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    known: dict[str, nn.Sequential] = {}
    for path in parser.parse_args(arguments).runs:
        folder = RunFolder(path)
        if folder.result is None:
            raise RunError(f"{path} is not finished: `fedml resume` it first")
        experiment = prepare(folder.config, [])
        key = experiment.data.name
        train, real = experiment.data.global_train, experiment.data.global_test.all()["x"]
        if key not in known:
            known[key] = classifier(train)
        network = known[key]
        model = experiment.model
        model.load_state_dict(load_file(path / "model.safetensors"))
        rng.seed_torch(0, "samples")
        with torch.no_grad():
            images = model.generate(torch.randn(len(real), model.noise))  # type: ignore[operator, call-overload]
        draw(images[:96], path / "samples.png")
        scores: dict[str, object] = {"run": str(path), **score(images, network, real)}
        scores["training digits"] = score(train.all()["x"][:: len(train) // len(real)], network, real)
        print(json.dumps(scores))


if __name__ == "__main__":
    main()

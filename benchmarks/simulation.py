"""Seconds per round of the standalone engine beside hand-written PyTorch, on the workloads of docs/performance.md.

    python -m benchmarks.simulation                       # the table, our executor chosen by `auto`
    python -m benchmarks.simulation W3 executor=stacked   # one workload, with settings of the engine
    python -m benchmarks.simulation W3 turn=5             # five rounds of a contestant in a row, then the next one
    python -m benchmarks.simulation check                 # do all arrive at the same model, where they should?

All contestants train on the same synthetic arrays, one local epoch of plain SGD; rounds alternate between them, in an order drawn
for each turn, and medians of at least 7 are compared. *naive* is what one writes by hand: a copy of the model per client, torch's
SGD, the weighted mean of state dicts. *lean* is the same without copies, optimizer and state dicts. Both use one thread, ours all
cores. Other libraries take part where their environments are there, in `benchmarks/envs` or in `peers=DIR`; benchmarks/README.md
tells how to make them.
"""

from __future__ import annotations

import copy
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import peers
from benchmarks.overhead import naive_round
from fedml_api.algorithms import FedAvg
from fedml_api.data import FederatedDataset
from fedml_api.model import LogisticRegression, ModelSpec, ReddiCNN, TwoNN, WordLSTM
from fedml_api.standalone import Standalone
from fedml_core.federation import LocalSGD, Setup
from fedml_core.trainer import Classifier, Examples, ModelState, ModelTrainer, NextToken

Data = list[tuple[torch.Tensor, torch.Tensor]]
LR, CPU = 0.05, torch.device("cpu")


@dataclass(frozen=True)
class Workload:
    """FedAvg of `model` over clients of `sizes` examples, one epoch in batches of `batch`; `goals` are ratios to naive."""

    name: str
    title: str
    spec: ModelSpec
    shape: tuple[int, ...]
    classes: int
    sizes: tuple[int, ...]
    batch: int
    rounds: int
    goal: float
    goal_bf16: float | None = None
    trainer: ModelTrainer = field(default_factory=Classifier)

    def model(self) -> nn.Module:
        return self.spec.build(self.shape, self.classes)

    def arrays(self) -> tuple[torch.Tensor, torch.Tensor]:
        draw, rows = np.random.default_rng(0), sum(self.sizes)
        if isinstance(self.trainer, NextToken):
            text = draw.integers(1, self.classes, (rows, self.shape[0] + 1))
            return torch.from_numpy(text[:, :-1].copy()), torch.from_numpy(text[:, 1:].copy())
        x = draw.standard_normal((rows, *self.shape), dtype=np.float32)
        return torch.from_numpy(x), torch.from_numpy(draw.integers(0, self.classes, rows))


def lognormal(clients: int, mean: float, sigma: float = 0.43) -> tuple[int, ...]:
    """Sizes of clients, drawn once for all contestants; spread as those of the writers of EMNIST (mean 198, deviation 89)."""
    found = np.random.default_rng(1).lognormal(0.0, sigma, clients)
    return tuple(int(size) for size in np.maximum(1, found * mean / found.mean()))


IMAGE = (1, 28, 28)
THREADS = torch.get_num_threads()  # as they are when nobody sets them; the loops by hand have one
WORKLOADS = [
    Workload("W1", "CNN, 62 classes, 10 clients", ReddiCNN(), IMAGE, 62, lognormal(10, 198), 20, 7, 0.42, 0.30),
    Workload(
        *(
            "W2",
            "LSTM, 10,004 words, 10 clients",
            WordLSTM(),
            (20,),
            10004,
            (64,) * 10,
            16,
            7,
            0.55,
            0.46,
        ),
        trainer=NextToken(),
    ),
    *(
        Workload(
            f"W3-{n}",
            f"logistic regression, {n} clients",
            LogisticRegression(),
            IMAGE,
            10,
            lognormal(n, 60),
            10,
            rounds,
            goal,
        )
        for n, rounds, goal in ((10, 51, 0.14), (100, 15, 0.07), (1000, 7, 0.055))
    ),
    Workload(
        "W4",
        "CNN on 32x32 colour, 50 clients",
        ReddiCNN(),
        (3, 32, 32),
        10,
        (50,) * 50,
        10,
        7,
        0.41,
        0.31,
    ),
    Workload("W5", "2NN, 100 clients", TwoNN(), IMAGE, 10, (60,) * 100, 10, 7, 0.22),
]


def lean_round(model: nn.Module, trainer: ModelTrainer, data: Data, batch: int) -> None:
    """One round of FedAvg by hand, the way one writes it after profiling."""
    params = list(model.parameters())
    params = [param for param in params if param.requires_grad]
    start = [param.detach().clone() for param in params]
    change = [torch.zeros_like(param) for param in params]
    total = sum(len(x) for x, _ in data)
    for x, y in data:
        torch._foreach_copy_([param.detach() for param in params], start)
        for rows in torch.randperm(len(x)).split(batch):
            loss = trainer.loss(model, {"x": x[rows], "y": y[rows]}).mean()
            torch._foreach_add_([p.detach() for p in params], torch.autograd.grad(loss, params), alpha=-LR)
        torch._foreach_add_(change, torch._foreach_sub([p.detach() for p in params], start), alpha=len(x) / total)
    torch._foreach_copy_([param.detach() for param in params], start)
    torch._foreach_add_([param.detach() for param in params], change)


def partition(work: Workload) -> FederatedDataset:
    """The workload's arrays, cut into its clients."""
    x, y = work.arrays()
    ends = np.cumsum((0, *work.sizes))
    parts = {str(k): np.arange(ends[k], ends[k + 1]) for k in range(len(work.sizes))}
    return FederatedDataset(Examples({"x": x, "y": y}), Examples({"x": x, "y": y}), parts, name=work.name)


def selected(names: Sequence[str]) -> list[Workload]:
    """The workloads of these names; `W3` stands for all three. Every one, if there are no names."""
    return [work for work in WORKLOADS if not names or {work.name, work.name.partition("-")[0]} & set(names)]


class Ours:
    """FedAvg on a workload by our engine; a call carries out one round."""

    def __init__(
        self,
        work: Workload,
        model: nn.Module,
        data: FederatedDataset,
        stack: ExitStack,
        engine: Standalone,
        precision: torch.dtype | None = None,
        rounds: int = 1000,
        device: torch.device = CPU,
    ) -> None:
        module = copy.deepcopy(model).to(device)
        setup = Setup(work.trainer, module, data.to(device), 0, device, precision=precision, rounds=rounds)
        self.algorithm = FedAvg(local=LocalSGD(lr=LR, batch_size=work.batch))
        self.session, self.clients = stack.enter_context(engine.open(setup)), data.client_ids
        self.state = self.algorithm.init(ModelState.of(copy.deepcopy(module)))

    def __call__(self, round: int) -> None:
        self.state, _ = self.algorithm.round(self.state, self.session.cohort(round, self.clients))


def measure(
    work: Workload,
    engines: dict[str, tuple[Standalone, torch.dtype | None]],
    rounds: int,
    commands: dict[str, list[str]] | None = None,
    turn: int = 1,
    by_hand: bool = True,
) -> dict[str, Any]:
    """Median seconds per round of every contestant, in turns of so many rounds; `commands` start those of other libraries."""
    torch.manual_seed(0)
    data = partition(work)
    x, y = (data.global_train.columns[name].split(work.sizes) for name in "xy")
    clients = list(zip(x, y, strict=True))
    model = work.model()
    contestants: dict[str, Callable[[int], float | None]] = {}
    with ExitStack() as stack:
        for name, (engine, precision) in engines.items():
            contestants[name] = Ours(work, model, data, stack, engine, precision)
        # By hand one leaves the weights as torch makes them; the layout of the library's CNN is part of what is compared.
        naive, lean = (copy.deepcopy(model).to(memory_format=torch.contiguous_format) for _ in range(2))
        if by_hand:
            contestants["naive"] = lambda round: naive_round(naive, clients, work.batch, LR, work.trainer)
            contestants["lean"] = lambda round: lean_round(lean, work.trainer, clients, work.batch)
        contestants |= {peer.name: peer.round for peer in started(work, model, data, commands or {}, stack)}
        times: dict[str, list[float]] = {name: [] for name in contestants}
        order = list(contestants)
        for first in range(0, rounds + 1, turn):
            # Who comes after whom is drawn for each turn: what one leaves in the caches should not always be the same one's loss.
            random.Random(first).shuffle(order)
            for name in order:
                torch.set_num_threads(THREADS if name in engines else 1)
                for round in range(first, first + turn):
                    start = time.perf_counter()
                    seconds = contestants[name](round)
                    times[name].append(time.perf_counter() - start if seconds is None else seconds)
        torch.set_num_threads(1)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()} | {
        f"first {name}": seconds[0] for name, seconds in times.items()
    }


def started(
    work: Workload, model: nn.Module, data: FederatedDataset, commands: dict[str, list[str]], stack: ExitStack
) -> list[peers.Peer]:
    """The peers, ready to train `model` on the same arrays."""
    if not commands:
        return []
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    dropout = any(layer.p > 0 for layer in model.modules() if isinstance(layer, nn.Dropout))
    settings = {"model": type(work.spec).__name__, "shape": work.shape, "classes": work.classes, "sizes": work.sizes}
    x, y = (data.global_train.columns[name].numpy() for name in "xy")
    initial = {name: param.detach().contiguous().numpy() for name, param in model.named_parameters()}
    peers.save(folder, {**settings, "batch": work.batch, "lr": LR, "dropout": dropout}, x, y, initial)
    return [stack.enter_context(peers.Peer(name, command, folder)) for name, command in commands.items()]


def check(commands: dict[str, list[str]], rounds: int = 2) -> int:
    """Whether all arrive at our model when nothing is left to chance: no dropout, and every batch a whole client."""
    torch.manual_seed(0)
    farthest = 0.0
    images = [(spec, IMAGE, Classifier()) for spec in (LogisticRegression(), TwoNN(), ReddiCNN())]
    for spec, shape, trainer in (*images, (WordLSTM(), (20,), NextToken())):
        # FedJAX fills the last batch up: 20 examples count twice in a batch of 40, which leaves their mean as it is.
        work = Workload("check", "", spec, shape, 10, (20, 40, 40, 20), 40, rounds, 1.0, trainer=trainer)
        model, data = work.model(), partition(work)
        for layer in model.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
        with ExitStack() as stack:
            engine = Ours(work, model, data, stack, Standalone(), rounds=rounds)
            for round in range(rounds):
                engine(round)
            ours = {name: param.numpy() for name, param in engine.state.model.params.items()}
            start = {name: param.numpy() for name, param in ModelState.of(model).params.items()}
            for peer in started(work, model, data, commands, stack):
                for _ in range(rounds):
                    peer.round()
                apart, moved = _distance(ours, peer.weights()), _distance(ours, start)
                print(f"{type(spec).__name__:<20} {peer.name:<8} apart {apart:.1e}, moved {moved:.1e}", flush=True)
                farthest = max(farthest, apart)
    return int(farthest > 1e-4)


def _distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(array - other[name]).max()) for name, array in one.items())


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    names = [word for word in arguments if "=" not in word]
    chosen = {
        key: (int(value) if value.isdigit() else value) for key, _, value in (w.partition("=") for w in arguments if "=" in w)
    }
    rounds, turn = int(chosen.pop("rounds", 0)), int(chosen.pop("turn", 1))
    bf16 = chosen.pop("bf16", 1)
    commands = peers.present(Path(str(chosen.pop("peers", peers.ENVIRONMENTS))))
    if names == ["check"]:
        return check(commands)
    columns = " ".join(f"{name:>8}" for name in ("first s", *commands))
    print(f"{'workload':<44} {'naive ms':>9} {'lean':>6} {'ours':>6} {'goal':>6} {'bf16':>6} {'goal':>6} {columns}")
    results, missed = [], 0
    for work in selected(names):
        engines: dict[str, tuple[Standalone, torch.dtype | None]] = {"ours": (Standalone(**chosen), None)}
        if work.goal_bf16 and bf16:
            engines["bf16"] = (Standalone(**chosen), torch.bfloat16)
        row = measure(work, engines, rounds or work.rounds, commands, turn)
        results.append({"workload": work.name, **row})
        ratio = {name: row[name] / row["naive"] for name in ("lean", *engines, *commands)}
        missed += ratio["ours"] > work.goal or ratio.get("bf16", 0) > (work.goal_bf16 or 1)
        half = f"{ratio['bf16']:6.3f} {work.goal_bf16:6.3f}" if "bf16" in ratio else " " * 13
        numbers = f"{1000 * row['naive']:9.1f} {ratio['lean']:6.3f} {ratio['ours']:6.3f} {work.goal:6.3f} {half}"
        others = "".join(f" {ratio[name]:8.3f}" for name in commands)
        print(f"{work.name + ' ' + work.title:<44} {numbers} {row['first ours']:8.2f}{others}", flush=True)
    print(json.dumps(results))
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The one round loop, for every algorithm on every engine."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from fedml_api.algorithms import FedAvg
from fedml_api.data.dataset import Dataset
from fedml_api.run.checkpoint import Checkpoints
from fedml_api.run.clients import Table, judge
from fedml_api.standalone import Standalone
from fedml_core import rng, tree
from fedml_core.devices import device_problems
from fedml_core.errors import ConfigError, DivergedError, RoundFailed, RunError
from fedml_core.federation import Algorithm, Cohort, Engine, Mean, Session, Setup, Workspace
from fedml_core.trainer import Classifier, ModelState, ModelTrainer
from fedml_core.tree import Tree

log = logging.getLogger("fedml")
Row = dict[str, Any]
# Least seconds from one try of a round to the next: one that fails at once would otherwise fail thousands of times a minute.
RETRY = 1.0
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


@dataclass
class Experiment:
    """All that determines a run: with the same values, threads and data the final parameters are the same, bit for bit.

    Attributes:
        model: the network to train, with its initial parameters; it is not changed.
        data: who holds which examples; `trainer`: what to minimise and what to measure.
        algorithm: the server program; `engine`: what carries its cohorts out.
        rounds: rounds in all; `clients_per_round`: how many clients are sampled for each.
        seed: of every draw; `threads`: torch's threads (as they are, if None); `device`: where the tensors live.
        precision: `bfloat16` computes losses and gradients of local training under `torch.autocast`; parameters stay float32.
        evaluate_every: rounds between evaluations on the global test set; the first state and the last are always evaluated.
        evaluate_clients: rounds between evaluations by every client of the model that it uses, on its own test examples, and after
            the last; 0: never.
        identity, recipe: see `Setup`.
    """

    model: nn.Module
    data: Dataset
    trainer: ModelTrainer = field(default_factory=Classifier)
    algorithm: Algorithm = field(default_factory=FedAvg)
    engine: Engine = field(default_factory=Standalone)
    rounds: int = 10
    clients_per_round: int = 10
    seed: int = 0
    threads: int | None = None
    device: str = "cpu"
    precision: str = "float32"
    evaluate_every: int = 1
    evaluate_clients: int = 0
    identity: str = ""
    recipe: Tree = None

    def setup(self) -> Setup:
        """What the engine gets to see: everything but the algorithm."""
        device = self.engine.device(torch.device(self.device))
        module = copy.deepcopy(self.model).to(device)
        data, precision, each = self.data.to(device), PRECISIONS.get(self.precision), self.clients_per_round
        return Setup(self.trainer, module, data, self.seed, device, self.identity, self.recipe, precision, self.rounds, each)

    def work(self) -> bool:
        """Be a worker of this experiment, if that is what the engine has this process for; whether it was."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return self.engine.work(self.setup())

    def problems(self) -> list[str]:
        """What cannot work, one line each."""
        found = []
        for name, least in {"rounds": 1, "clients_per_round": 1, "seed": 0, "evaluate_every": 1, "evaluate_clients": 0}.items():
            if getattr(self, name) < least:
                found.append(f"{name} = {getattr(self, name)}: must be at least {least}")
        if not self.engine.brings_clients and self.clients_per_round > (clients := len(self.data.client_ids)):
            found.append(
                f"clients_per_round = {self.clients_per_round}: data set '{self.data.name}' has only {clients} clients; "
                f"lower clients_per_round to at most {clients}, or spread the data over more clients"
            )
        if self.evaluate_clients > 0 and not self.engine.brings_clients and not any(map(self._tests, self.data.client_ids)):
            found.append(
                f"evaluate_clients = {self.evaluate_clients}: no client of data set '{self.data.name}' has test examples; "
                "give it test_parts, or leave evaluate_clients at 0"
            )
        if self.precision not in PRECISIONS:
            found.append(f"precision = '{self.precision}': must be one of {', '.join(PRECISIONS)}")
        about = Setup(self.trainer, self.model, self.data, self.seed, torch.device("cpu"), clients_per_round=self.clients_per_round)
        return found + device_problems(self.device) + self.engine.unfit() + self.algorithm.unfit(about)

    def _tests(self, client: str) -> int:
        return len(self.data.test(client))


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        model: the numbers of the final model, or of the initial one, if the server never gets to see another; `network`: the
            network that holds them.
        sha256: the SHA-256 of these numbers, equal for equal runs.
        history: one row per round, the first being the evaluation of the initial model; `last`: its last evaluation.
        seconds: time spent in rounds, over all processes that worked on the run.
    """

    model: ModelState
    network: nn.Module
    sha256: str
    history: list[Row]

    @property
    def last(self) -> Row:
        return next((row for row in reversed(self.history) if any(name.startswith("test_") for name in row)), {})

    @property
    def seconds(self) -> float:
        return math.fsum(row["seconds"] for row in self.history)


class Observer:
    """Sees a run as it goes; what it does has no influence on the result."""

    def on_start(self, experiment: Experiment, history: Sequence[Row]) -> None:
        """Before the first round; `history` holds the rows of earlier processes when a run goes on."""

    def on_clients(self, round: int, table: Table) -> None:
        """After an evaluation by the clients, before `on_round`: what each of them found."""

    def on_round(self, row: Row) -> None:
        """After each round, before its checkpoint is written."""

    def on_end(self, result: Result) -> None:
        """After the last round."""


def simulate(
    experiment: Experiment,
    observers: Sequence[Observer] = (),
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 10,
    history: Sequence[Row] = (),
) -> Result:
    """Carry an experiment out, from its newest sound checkpoint if it has one.

    Args:
        checkpoints: where to keep the state every `checkpoint_every` rounds and after the last.
        history: rows written before by an interrupted run; those after the checkpoint are dropped, their rounds run again.

    Raises:
        ConfigError: the experiment cannot work; nothing has run.
        DivergedError: the loss stopped being a number.
    """
    if problems := experiment.problems():
        raise ConfigError(problems)
    if experiment.threads is not None:
        torch.set_num_threads(experiment.threads)
    setup, algorithm = experiment.setup(), experiment.algorithm
    workspace = Workspace(setup.module)

    def evaluate(state: Tree) -> Callable[[], Row]:
        """Begin to evaluate; what is returned waits for the numbers."""
        if not algorithm.server_has_model:
            return dict
        model = workspace.load(algorithm.model(state))
        rng.seed_torch(setup.seed, "evaluate", device=setup.device)
        end = setup.trainer.begin_test(model, setup.data.global_test)
        return lambda: {f"test_{name}": value for name, value in end().items()}

    def settle() -> None:
        """Wait for what the last round still waits for, and show it."""
        while unsettled:
            row, end = unsettled.pop()
            row |= end()
            _check(row)
            rows.append(row)
            for observer in observers:
                observer.on_round(row)

    with experiment.engine.open(setup) as session:
        state = algorithm.init(tree.clone(ModelState.of(setup.module)))
        about = _about(experiment)
        done, state = _resume(checkpoints, session, state, about, setup.device)
        rows = [row for row in history if row["round"] <= done]
        if not rows and done == 0:
            rows = [{"round": 0, "seconds": 0.0, **evaluate(state)()}]
        how = next((row["executor"] for row in reversed(rows) if "executor" in row), "")
        for observer in observers:
            observer.on_start(experiment, rows)
        unsettled: list[tuple[Row, Callable[[], Row]]] = []
        for round in range(done, experiment.rounds):
            started = time.perf_counter()
            try:
                cohort, state, metrics = _round(experiment, session, state, round)
                seconds = time.perf_counter() - started
            finally:
                settle()
            row = {"round": round + 1, "seconds": seconds, **_train_row(cohort, metrics)}
            if session.how and session.how != how:
                if how:
                    log.warning(
                        "this run was carried out as '%s' before, and goes on as '%s': it differs by rounding", how, session.how
                    )
                how = row["executor"] = session.how
            last = round + 1 == experiment.rounds
            asks = experiment.evaluate_clients and (last or (round + 1) % experiment.evaluate_clients == 0)
            end = evaluate(state) if last or (round + 1) % experiment.evaluate_every == 0 else dict
            if asks:
                row, end = row | end(), dict
                verdicts = judge(algorithm, state, session, round + 1, setup)
                row |= verdicts.spread()
                for observer in observers:
                    observer.on_clients(round + 1, verdicts.table)
            unsettled.append((row, end))
            saves = checkpoints and (last or (round + 1) % checkpoint_every == 0)
            if last or saves or not _goes_on(setup.device):
                settle()
            if checkpoints and saves:
                checkpoints.save(round + 1, {"of": about, "algorithm": state}, session.save())
    model = algorithm.model(state)
    network = model.load_into(copy.deepcopy(experiment.model).to(setup.device))
    result = Result(model, network, tree.digest(model), rows)
    for observer in observers:
        observer.on_end(result)
    return result


def _round(experiment: Experiment, session: Session, state: Tree, round: int) -> tuple[Cohort, Tree, dict[str, Mean]]:
    """The clients that were asked, and what the algorithm made of their replies; tried again until enough of them reply."""
    while True:
        began = time.monotonic()
        cohort = session.cohort(round, session.select(experiment.clients_per_round, experiment.seed, round))
        try:
            return cohort, *experiment.algorithm.round(state, cohort)
        except RoundFailed as error:
            log.warning("%s; trying the round again", error)
            time.sleep(max(0.0, began + RETRY - time.monotonic()))


def _goes_on(device: torch.device) -> bool:
    """Whether a round may begin while the device still evaluates the one before: what it is asked for waits in a queue."""
    return device.type == "cuda"


def _about(experiment: Experiment) -> str:
    """What a checkpoint must agree in with the experiment that goes on from it."""
    shapes = {name: tuple(part.shape) for name, part in ModelState.of(experiment.model).params.items()}
    return f"{type(experiment.algorithm).__name__}, seed {experiment.seed}, parameters {shapes}"


def _resume(checkpoints: Checkpoints | None, session: Session, initial: Tree, about: str, device: torch.device) -> tuple[int, Tree]:
    """Rounds done and the state after them.

    Raises:
        RunError: the checkpoint is of another experiment.
    """
    found = checkpoints.newest() if checkpoints else None
    if found is None:
        return 0, initial
    done, saved = found
    if saved["of"] != about:
        raise RunError(f"the checkpoints are of another experiment ({saved['of']}), not of this ({about}): use another folder")
    assert checkpoints is not None
    session.restore((client, tree.to(own, device)) for client, own in checkpoints.clients(done))
    return done, tree.to(saved["algorithm"], device)


def _train_row(cohort: Cohort, metrics: dict[str, Mean]) -> Row:
    row: Row = {"clients": len(cohort.clients) - len(cohort.missing)}
    row |= {"missing": list(cohort.missing)} if cohort.missing else {}
    row |= {f"train_{name}": mean.value for name, mean in metrics.items() if mean.count}
    return row | ({"examples": int(metrics["loss"].count)} if "loss" in metrics else {})


def _check(row: Row) -> None:
    loss = row.get("train_loss", 0.0) + row.get("test_loss", 0.0)
    if not math.isfinite(loss):
        raise DivergedError(
            f"training diverged: the loss of round {row['round']} is {loss}. "
            "Lower algorithm.local.lr, or bound the gradients with algorithm.local.clip=1.0."
        )

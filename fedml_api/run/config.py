"""The configuration of a run: one typed tree, from a YAML file and `key=value` overrides."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from msgspec import Meta

from fedml_api.algorithms import FedAvg
from fedml_api.data import DataSource, Mnist5k
from fedml_api.distributed import Loopback, Mpi  # noqa: F401 (registers)
from fedml_api.model import ModelSpec, ReddiCNN
from fedml_api.model.model_spec import check_columns
from fedml_api.run.experiment import Experiment
from fedml_api.standalone import Standalone
from fedml_core import rng
from fedml_core.devices import device_problems
from fedml_core.errors import ConfigError, FedMLError
from fedml_core.federation import Algorithm, Engine
from fedml_core.settings import build, settings, to_plain

AtLeastOne = Annotated[int, Meta(ge=1)]


@settings
class RunConfig:
    """Everything a run folder needs to know. Keys of the YAML file are these fields; whatever is left out has its default.

    Args:
        name: first part of the run folder's name.
        rounds, clients_per_round, seed, threads, device, precision: as in `Experiment`.
        evaluate_every: rounds between evaluations; `evaluate_clients`: rounds between evaluations by the clients, 0 for none;
            `checkpoint_every`: rounds between checkpoints.
        metrics: what to report beside loss and accuracy, such as `[top_5, macro_f1]`: see `fedml_core.trainer.measures.measure`.
        tensorboard: also write event files for TensorBoard into the run folder.
        data_folder: where data sets lie on disk; `runs_folder`: where run folders are made.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = "run"
    algorithm: Algorithm = FedAvg()
    model: ModelSpec = ReddiCNN()
    data: DataSource = Mnist5k()
    engine: Engine = Standalone()
    rounds: AtLeastOne = 100
    clients_per_round: AtLeastOne = 10
    seed: Annotated[int, Meta(ge=0)] = 0
    threads: AtLeastOne | None = None
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    evaluate_every: AtLeastOne = 5
    evaluate_clients: Annotated[int, Meta(ge=0)] = 0
    checkpoint_every: AtLeastOne = 10
    metrics: tuple[str, ...] = ()
    tensorboard: bool = False
    data_folder: str = "data"
    runs_folder: str = "runs"


def read_config(path: Path, overrides: list[str]) -> tuple[RunConfig, list[str]]:
    """The configuration of a YAML file with overrides applied, and all its problems (with defaults in the faulty places).

    Raises:
        ConfigError: the file cannot be read as a YAML mapping, or an override is not `key=value`.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Once)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}. Give the path of a YAML file, e.g. experiments/demo/config.yaml"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, not a {type(data).__name__}")
    problems: list[str] = []
    for setting in overrides:
        problems += override(data, setting)
    return build(RunConfig, data, "", problems, RunConfig()), problems


class _Once(yaml.SafeLoader):
    """YAML, except that a key which is there twice is an error, as the standard says: PyYAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge"):
            if key.value in found:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is there twice; remove one", key.start_mark)
            found.add(key.value)
        return super().construct_mapping(node, deep)


def override(data: dict[str, Any], setting: str) -> list[str]:
    """Set `a.b.c=value` in nested mappings; what is wrong with it, if anything."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        return [f"override '{setting}': must be key=value, e.g. algorithm.local.lr=0.1"]
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return [f"override '{setting}': the value is not YAML; put it in quotes"]
    *path, last = key.split(".")
    for step in path:
        inner = data.get(step)
        if isinstance(inner, str):
            inner = {"name": inner}
        # A copy, because YAML anchors make one mapping of two places.
        data[step] = dict(inner) if isinstance(inner, dict) else {}
        data = data[step]
    data[last] = value
    return []


def identity(config: RunConfig) -> str:
    """SHA-256 of what all parties must agree on: the configuration without names, folders and what is carried out where."""
    plain = to_plain(config)
    for name in ("name", "engine", "threads", "device", "tensorboard", "data_folder", "runs_folder", "checkpoint_every"):
        del plain[name]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def dump_config(config: RunConfig) -> str:
    """The effective configuration as YAML, every default written out."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def prepare(config: RunConfig, problems: list[str]) -> Experiment:
    """Load the data and build the network, before anything is written.

    Args:
        problems: what is known to be wrong already; everything found here is reported together with it.

    Raises:
        ConfigError: listing every problem.
    """
    problems = list(problems)
    faulty = {line.partition(":")[0].partition(" ")[0].partition(".")[0] for line in problems}

    def attempt(step: Any, *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except FedMLError as error:
            problems.extend(str(error).splitlines())
            return None

    shape: tuple[int, ...] = ()
    data = attempt(config.data.load, config.seed, Path(config.data_folder)) if "data" not in faulty else None
    module, model = None, config.model
    if data is not None and "model" not in faulty:
        with torch.random.fork_rng(devices=[]):
            rng.seed_torch(config.seed, "model")
            shape = tuple(data.global_test.columns["x"].shape[1:])
            model = config.model.fitted(data)
            module = attempt(model.build, shape, data.classes)
        if module is not None:
            attempt(check_columns, model, data.global_test.columns, data.classes)
    trainer = None
    if "metrics" not in faulty and (trainer := attempt(model.trainer().measuring, *config.metrics)) and data is not None:
        faults = (one.fault(trainer.classes_of(data.classes or 0)) for one in trainer.measures)
        problems += [f"metrics: {fault}" for fault in faults if fault]
    if data is None or module is None or trainer is None:
        raise ConfigError(problems + ([] if "device" in faulty else device_problems(config.device)))
    experiment = Experiment(
        model=module,
        data=data,
        trainer=trainer,
        algorithm=config.algorithm,
        engine=config.engine,
        rounds=config.rounds,
        clients_per_round=config.clients_per_round,
        seed=config.seed,
        threads=config.threads or torch.get_num_threads(),
        device=config.device,
        precision=config.precision,
        evaluate_every=config.evaluate_every,
        evaluate_clients=config.evaluate_clients,
        identity=identity(config),
        recipe={"model": to_plain(model), "shape": list(shape), "classes": data.classes, "seed": config.seed},
    )
    problems += [line for line in experiment.problems() if line.partition(" ")[0] not in faulty]
    if problems:
        raise ConfigError(problems)
    return experiment

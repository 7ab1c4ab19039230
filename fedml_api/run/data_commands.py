"""`fedml data`: which data sets there are, which are on disk, what they are, and whether they are sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedml_api.data import DataSource, FederatedData, PartitionedSource, data_sources, save_partition_of
from fedml_api.data.download import downloads, get
from fedml_api.data.examine import describe_data, faults, overlap
from fedml_api.run.config import override
from fedml_core.errors import ConfigError, DataError
from fedml_core.settings import build


def source_of(name: str, settings: list[str]) -> DataSource:
    """The data set of this name with `key=value` settings; `data.key=value`, as `fedml run` has them, will do as well.

    Raises:
        ConfigError: listing every problem.
    """
    data: dict[str, Any] = {}
    problems = [line for setting in settings for line in override(data, setting.removeprefix("data."))]
    source = build(DataSource, {**data, "name": name}, "data", problems)
    if problems:
        raise ConfigError(problems)
    assert isinstance(source, DataSource)
    return source


def list_data(root: Path) -> list[dict[str, Any]]:
    """Every data set, and whether its files are there."""
    return [{"name": name, "here": _here(data_sources[name](), root), "about": _about(data_sources[name])} for name in data_sources]


def _here(source: DataSource, root: Path) -> str:
    files = source.files(root)
    if not files:
        return "-"  # drawn, in a package, or not said
    missing = [path for path in files if not path.exists()]
    return "yes" if not missing else "no" if len(missing) == len(files) else f"{len(files) - len(missing)} of {len(files)} files"


def _about(source: type) -> str:
    return (source.__doc__ or "").strip().splitlines()[0]


def show_data(name: str, settings: list[str], root: Path, seed: int, picture: Path | None = None) -> dict[str, Any]:
    """Counts and shapes of a data set; who holds how much of which class, in a picture.

    Raises:
        DataError: there is nothing to draw, or nowhere to put it.
    """
    data = source_of(name, settings).load(seed, root)
    if picture is None:
        return describe_data(data)
    if picture.suffix != ".png" or not picture.parent.is_dir():
        raise DataError(f"--picture {picture}: must be a .png file in a folder that exists")
    if not isinstance(data, FederatedData) or not data.labelled:
        raise DataError(f"data set '{name}': its examples are not of one class each, so that there is nothing to draw")
    from fedml_api.data.picture import draw_clients

    draw_clients(data, picture)
    return {**describe_data(data), "picture": str(picture)}


def partition_data(name: str, settings: list[str], root: Path, seed: int, output: Path) -> dict[str, Any]:
    """Save who holds which training example, for other runs to use.

    Raises:
        ConfigError: the data set has clients of its own.
        DataError: the file cannot be written.
    """
    source = source_of(name, settings)
    if not isinstance(source, PartitionedSource):
        others = ", ".join(other for other in data_sources if issubclass(data_sources[other], PartitionedSource))
        raise ConfigError(f"data set '{name}' has clients of its own, and nothing is partitioned; data sets that are: {others}")
    save_partition_of(source, seed, root, output)
    return {
        **describe_data(source.load(seed, root)),
        "file": str(output),
        "use": f"data.partition='{{name: saved, file: {output}}}'",
    }


def check_data(name: str, settings: list[str], root: Path, seed: int) -> dict[str, Any]:
    """The same after reading every client, with how many test examples are training examples as well.

    Raises:
        DataError: listing what is wrong.
    """
    data = source_of(name, settings).load(seed, root)
    if found := list(faults(data)):
        raise DataError("\n".join(found))
    return {**describe_data(data), "test examples also in train": overlap(data)}


def get_data(name: str, root: Path) -> dict[str, Any]:
    """Fetch the files of a data set.

    Raises:
        DataError: they cannot be fetched, or nobody may.
    """
    if name not in downloads:
        known = ", ".join(sorted(downloads))
        raise DataError(f"{_about(data_sources[name])} It is not fetched; data/README.md says how to get it. Fetched are: {known}")
    there = data_sources[name]().files(root)
    if not all(path.exists() for path in there):
        there = [path for one in downloads[name] for path in get(one, root)]
    return {"name": name, "files": [str(path) for path in there]}

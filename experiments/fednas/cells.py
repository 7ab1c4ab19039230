"""The cells that a finished search has come to: their picture, and the command that trains their network.

    python -m experiments.fednas.cells RUN [RUN ...]

writes `cells.png` into each run's folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from fedml_api.model import DartsSearch
from fedml_api.model.picture import draw_genotype
from fedml_api.run.config import prepare
from fedml_api.run.folder import RunFolder
from fedml_core.errors import RunError
from fedml_core.settings import to_plain


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.fednas.cells", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    for path in parser.parse_args(arguments).runs:
        folder = RunFolder(path)
        if folder.result is None:
            raise RunError(f"{path} is not finished: `fedml resume` it first")
        if not isinstance(folder.config.model, DartsSearch):
            raise RunError(f"{path} is no search: its model is not darts_search")
        network = prepare(folder.config, []).model
        network.load_state_dict(load_file(path / "model.safetensors"))
        genotype = network.genotype()  # type: ignore[operator]
        draw_genotype(genotype, path / "cells.png", path.name)
        print(f"{path / 'cells.png'}\nfedml run experiments/fednas/train.yaml 'model.genotype={json.dumps(to_plain(genotype))}'")


if __name__ == "__main__":
    main()

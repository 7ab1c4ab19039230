"""FedAvg with Flower: its simulation engine (Ray), one client per core at a time, its FedAvg strategy called once per round."""

from __future__ import annotations

import logging
import os

import numpy as np
from serve import FOLDER, initial, serve, settings

# Before the imports: Ray's processes inherit them.
os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "PEER_FOLDER": str(FOLDER.resolve())}

from flower_client import app as client_app
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch_models import loaded

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Carry out the rounds that are asked for; the engine stays up between them."""
    chosen = settings()
    sizes = chosen.pop("sizes")
    arrays = ArrayRecord(loaded(chosen, initial()).state_dict())
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=len(sizes), min_available_nodes=len(sizes))

    def one_round() -> None:
        nonlocal arrays
        result = strategy.start(grid, arrays, num_rounds=1, train_config=ConfigRecord(chosen))
        arrays = result.arrays

    def weights() -> dict[str, np.ndarray]:
        return {name: array.numpy() for name, array in arrays.to_torch_state_dict().items()}

    serve("flower", one_round, weights)


if __name__ == "__main__":
    logging.getLogger("flwr").setLevel(logging.WARNING)
    run_simulation(
        app,
        client_app,
        num_supernodes=len(settings()["sizes"]),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )

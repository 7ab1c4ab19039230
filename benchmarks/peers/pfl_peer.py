"""FedAvg with pfl-research: its simulated backend in one process, its averaging weighted by examples."""

from __future__ import annotations

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel
from serve import clients, initial, serve, settings
from torch import nn
from torch_models import loaded, loss


class Trained(nn.Module):
    """The two methods that pfl asks of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.train()
        return loss(self.network(x), y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        self.eval()
        return {"loss": Weighted(loss(self.network(x), y).item() * len(y), len(y))}


def main() -> None:
    chosen = settings()
    if chosen["model"] in ("LogisticRegression", "TwoNN"):
        torch.set_num_threads(1)  # With torch's default the threads of so small a network wait for one another.
    users = {str(k): PyTorchTensorDataset((torch.from_numpy(x), torch.from_numpy(y))) for k, (x, y) in enumerate(clients())}
    data = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", list(users)))
    trained = Trained(loaded(chosen, initial()))
    central = torch.optim.SGD([param for param in trained.parameters() if param.requires_grad], lr=1.0)
    model = PyTorchModel(trained, torch.optim.SGD, central)
    backend = SimulatedBackend(data, data, postprocessors=[WeightByDatapoints()])
    algorithm, rounds = FederatedAveraging(), 0
    local = NNTrainHyperParams(local_batch_size=chosen["batch"], local_num_epochs=1, local_learning_rate=chosen["lr"])

    def one_round() -> None:
        # A second call of `run` goes on where the first one ended; the frequency keeps evaluation out of all but the first round.
        nonlocal rounds
        rounds += 1
        params = NNAlgorithmParams(
            central_num_iterations=rounds, evaluation_frequency=10**9, train_cohort_size=len(users), val_cohort_size=0
        )
        algorithm.run(params, backend, model, local, send_metrics_to_platform=False)

    def weights() -> dict[str, np.ndarray]:
        return {name: param.detach().numpy() for name, param in trained.network.named_parameters()}

    serve("pfl", one_round, weights)


if __name__ == "__main__":
    main()

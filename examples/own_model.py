"""Your own network, loss and data in a federated run: patients of ten clinics, whose records never meet.

    python examples/own_model.py

Ten clinics hold the records of scikit-learn's 442 diabetes patients, by age; they learn together to predict the progression of
the disease. Everything used here is public; replace `clinics` by whatever your clients hold.
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, ModelTrainer, PlainProgress, draw_curves, simulate


class Net(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x):
        return self.layers(x).squeeze(1)


class Regression(ModelTrainer):
    def loss(self, model, batch):
        return nn.functional.smooth_l1_loss(model(batch["x"]), batch["y"], reduction="none")

    def metrics(self, model, batch):
        return {"absolute_error": (model(batch["x"]) - batch["y"]).abs()}


def clinics():
    features, progression = load_diabetes(return_X_y=True)
    x = torch.tensor(features * 20, dtype=torch.float32)
    y = torch.tensor((progression - progression.mean()) / progression.std(), dtype=torch.float32)
    by_age = x[:, 0].argsort()
    test, train = by_age[::5], [row for i, row in enumerate(by_age) if i % 5]
    parts = torch.stack(train).tensor_split(10)
    clients = {f"clinic-{k}": {"x": x[rows], "y": y[rows]} for k, rows in enumerate(parts)}
    return FederatedDataset.from_clients(clients, {"x": x[test], "y": y[test]}, name="diabetes by age")


torch.manual_seed(0)
experiment = Experiment(
    model=Net(features=10),
    data=clinics(),
    trainer=Regression(),
    algorithm=FedAvg(LocalSGD(lr=0.02, epochs=2, batch_size=8)),
    rounds=40,
    clients_per_round=5,
)
result = simulate(experiment, [PlainProgress()])
print(f"mean absolute error {result.last['test_absolute_error']:.3f} standard deviations, SHA-256 {result.sha256[:12]}")
draw_curves({"own model": result.history}, "own_model.png")

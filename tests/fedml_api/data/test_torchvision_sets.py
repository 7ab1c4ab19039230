"""Data sets of torchvision, on files in their official formats."""

import gzip
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fedml_api.data import FashionMnist, TorchvisionSet, View, from_torchvision
from fedml_api.data.examine import faults, overlap
from fedml_api.data.torchvision_sets import safe
from fedml_api.vision import torchvision
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import Dirichlet, Iid
from tests.fedml_api.data import official, photos

FEW = {"clients": 2, "partition": Iid()}
STEMS = [(f"{half}-images-idx3-ubyte", f"{half}-labels-idx1-ubyte") for half in ("train", "t10k")]


def fashion(root, name="FashionMNIST"):
    return official.idx_files(root / "torchvision" / name / "raw", STEMS, classes=10, sizes=(20, 10), zipped=False)


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_the_family_of_mnist_is_what_its_files_say(tmp_path, name, lazily):
    made = fashion(tmp_path, name)
    data = TorchvisionSet(dataset=name, lazily=lazily, **FEW).load(0, tmp_path)
    for examples, (images, labels) in zip((data.global_train, data.global_test), made, strict=True):
        batch = examples.all()
        assert np.array_equal(batch["x"][:, 0].numpy(), images.astype(np.float32) / 255)
        assert (batch["y"].tolist(), batch["y"].dtype, batch["x"].dtype) == (labels.tolist(), torch.int64, torch.float32)
    assert (data.classes, data.name, overlap(data), list(faults(data))) == (10, "torchvision", 0, [])
    assert sum(len(data.test(client)) for client in data.client_ids) == 10


def test_it_is_the_data_set_that_our_own_reader_reads(tmp_path):
    fashion(tmp_path)
    raw = tmp_path / "torchvision" / "FashionMNIST" / "raw"
    for path in raw.iterdir():
        (tmp_path / "fashion_mnist").mkdir(exist_ok=True)
        (tmp_path / "fashion_mnist" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    settings = {"clients": 3, "partition": Dirichlet(0.5)}
    one, other = (source.load(7, tmp_path) for source in (TorchvisionSet(**settings), FashionMnist(**settings)))
    assert one.fingerprint == other.fingerprint


def test_parts_with_names_and_arguments_of_base_classes(tmp_path):
    raw = tmp_path / "torchvision" / "EMNIST" / "raw"
    stems = [
        tuple(f"emnist-letters-{part}-{what}" for what in ("images-idx3-ubyte", "labels-idx1-ubyte")) for part in ("train", "test")
    ]
    made = official.idx_files(raw, stems, classes=26, sizes=(26, 26), first=1, zipped=False)
    data = TorchvisionSet(dataset="EMNIST", options={"split": "letters"}, **FEW).load(0, tmp_path)
    assert data.global_test.all()["y"].tolist() == made[1][1].tolist()
    with pytest.raises(DataError, match=r"torchvision's EMNIST.*split"):
        TorchvisionSet(dataset="EMNIST", **FEW).load(0, tmp_path)

    draw, base = np.random.default_rng(0), tmp_path / "torchvision" / "stl10_binary"
    base.mkdir()
    pixels = {part: draw.integers(0, 256, (n, 3, 96, 96)).astype(np.uint8) for part, n in (("train", 6), ("test", 4))}
    for part, array in pixels.items():
        (base / f"{part}_X.bin").write_bytes(array.transpose(0, 1, 3, 2).tobytes())
        (base / f"{part}_y.bin").write_bytes(bytes(1 + k % 2 for k in range(len(array))))
    (base / "unlabeled_X.bin").write_bytes(pixels["test"].tobytes())
    (base / "class_names.txt").write_text("airplane\nbird\n")
    kept = torchvision("datasets").STL10
    checked, kept._check_integrity = kept._check_integrity, lambda self: True
    try:
        data = TorchvisionSet(dataset="STL10", **FEW).load(0, tmp_path)
        small = TorchvisionSet(dataset="STL10", view=View(48, crop=1.0, channels=1), lazily=True, **FEW).load(0, tmp_path)
        with pytest.raises(DataError, match=r"labels go from -1 to -1.*-1 is often an example without a label"):
            TorchvisionSet(dataset="STL10", test_split="unlabeled", **FEW).load(0, tmp_path)
        with pytest.raises(DataError, match=r"torchvision's STL10.*tset"):
            TorchvisionSet(dataset="STL10", test_split="tset", **FEW).load(0, tmp_path)
    finally:
        kept._check_integrity = checked
    assert np.array_equal(data.global_test.all()["x"].numpy(), pixels["test"].astype(np.float32) / 255)
    assert data.global_test.all()["y"].tolist() == [0, 1, 0, 1]
    grey = Image.fromarray(pixels["test"][3].transpose(1, 2, 0)).convert("L").resize((48, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(small.global_test.all()["x"][3, 0].numpy(), np.asarray(grey).astype(np.float32) / 255)


@pytest.mark.parametrize("lazily", [False, True])
def test_without_a_test_part_examples_are_held_out_class_by_class(tmp_path, lazily):
    about = {"dataset": "FakeData", "options": {"size": 30, "num_classes": 3}, "view": View(8), "lazily": lazily, "test": 0.2}
    with pytest.raises(DataError, match="FakeData"):
        TorchvisionSet(**{**about, "options": {"size": -3}}, **FEW).load(0, tmp_path)
    data = TorchvisionSet(**about, **FEW).load(0, tmp_path)
    assert (len(data.global_train), len(data.global_test), overlap(data), data.global_test.all()["x"].shape[1:]) == (
        24,
        6,
        0,
        (3, 8, 8),
    )
    every = torch.cat([data.global_train.all()["y"], data.global_test.all()["y"]]).bincount()
    held_out = data.global_test.all()["y"].bincount(minlength=3)
    assert ((held_out - 0.2 * every).abs() < 1).all()
    assert TorchvisionSet(**about, **FEW).load(5, tmp_path).global_test.all()["x"].equal(data.global_test.all()["x"])


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        (
            {"dataset": "CIFAR10"},
            ConfigError,
            "CIFAR10: torchvision reads it with pickle, .*data.name=cifar10 reads the",
        ),
        ({"dataset": "CIFAR100"}, ConfigError, "data.name=cifar100 reads the same"),
        ({"dataset": "ImageNet"}, ConfigError, "data.name=imagenet reads the same"),
        ({"dataset": "LSUN"}, ConfigError, "with pickle.*choose another"),
        ({"dataset": "PhotoTour"}, ConfigError, "with pickle.*choose another"),
        ({"dataset": "FashionMnist"}, ConfigError, "did you mean 'FashionMNIST'"),
        ({"dataset": "os"}, ConfigError, "data.dataset"),
        ({"options": {"trian": True}}, ConfigError, r"data.options: .*did you mean 'train'"),
        ({"options": {"root": "/etc"}}, ConfigError, "data.options"),
        ({}, DataError, "torchvision's FashionMNIST in .*not found.*data.download=true lets torchvision fetch"),
    ],
)
def test_what_is_refused(tmp_path, settings, error, said):
    with pytest.raises(error, match=said):
        TorchvisionSet(**settings, **FEW).load(0, tmp_path)


def test_torchvision_unpickles_nothing_for_what_is_not_refused():
    """The modules of torchvision that do are those of the sets above; of another version, others are refused as well."""
    datasets, refused = torchvision("datasets"), set()
    for name in datasets.__all__:
        try:
            safe(name) if isinstance(getattr(datasets, name), type) else None
        except ConfigError:
            refused.add(name)
    assert {"CIFAR10", "CIFAR100", "ImageNet", "LSUN", "LSUNClass", "PhotoTour"} <= refused
    assert not refused & {"MNIST", "FashionMNIST", "EMNIST", "KMNIST", "QMNIST", "SVHN", "STL10", "GTSRB", "Food101", "EuroSAT"}


def test_what_an_old_torchvision_left_behind_is_not_unpickled(tmp_path):
    fashion(tmp_path)
    processed = tmp_path / "torchvision" / "FashionMNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(20, 28, 28), torch.zeros(20)), processed / name)
    with pytest.raises(DataError, match=f"{processed}: holds files .* that only torch.load reads; remove the folder"):
        TorchvisionSet(**FEW).load(0, tmp_path)
    shutil.rmtree(processed)
    TorchvisionSet(**FEW).load(0, tmp_path)


@pytest.mark.parametrize("what", ["train-images", "train-labels"])
def test_damaged_files_are_the_data_sets_fault(tmp_path, what):
    fashion(tmp_path)
    (path,) = (tmp_path / "torchvision/FashionMNIST/raw").glob(f"{what}*")
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:3], b"", b"\0\0\x07" + whole[3:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="torchvision's FashionMNIST"):
            TorchvisionSet(**FEW).load(0, tmp_path)


class Listed(torch.utils.data.Dataset):
    """(image, label) by number, and nothing else."""

    def __init__(self, images, labels):
        self.images, self.labelling = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        return self.images[row], self.labelling[row]


@pytest.mark.parametrize("lazily", [False, True])
@pytest.mark.parametrize("kind", ["pillow", "array", "bytes", "floats"])
def test_any_data_set_of_that_kind_from_python(kind, lazily):
    pixels = [photos.pixels(k, 5, 7) for k in range(10)]
    kinds = {
        "pillow": Image.fromarray,
        "array": lambda one: one,
        "bytes": lambda one: torch.from_numpy(one.transpose(2, 0, 1).copy()),
        "floats": lambda one: torch.from_numpy(one.transpose(2, 0, 1).astype(np.float32) / 255),
    }
    dataset = Listed([kinds[kind](one) for one in pixels], [k % 2 for k in range(10)])
    data = from_torchvision(dataset, Listed(dataset.images[:4], [0, 2, 0, 1]), lazily=lazily, name="mine", **FEW)
    x = data.global_train.all()["x"]
    assert np.array_equal(x.numpy(), np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255)
    assert (data.global_test.all()["y"].tolist(), data.classes, data.name) == ([0, 2, 0, 1], 3, "mine")
    held_out = from_torchvision(dataset, held_out=0.4, lazily=lazily, **FEW)
    assert (sorted(held_out.global_test.all()["y"].tolist()), overlap(held_out)) == ([0, 0, 1, 1], 0)
    assert torch.cat([held_out.train(client).all()["y"] for client in "01"]).bincount().tolist() == [3, 3]


def test_a_transform_and_a_target_transform_of_ones_own_are_kept(tmp_path):
    fashion(tmp_path)
    transforms = torchvision("transforms")
    usual = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])
    made = torchvision("datasets").FashionMNIST(
        str(tmp_path / "torchvision"), transform=usual, target_transform=lambda label: label // 2
    )
    for lazily in (False, True):
        data = from_torchvision(made, lazily=lazily, **FEW)
        x, y = (torch.cat([part.all()[name] for part in (data.global_train, data.global_test)]) for name in "xy")
        assert sorted(y.tolist()) == sorted(label // 2 for label in made.targets.tolist())
        assert x.min() == -1
        assert {one.sum().item() for one in x} == {made[k][0].sum().item() for k in range(20)}


@pytest.mark.parametrize(
    ("images", "labels", "view", "said"),
    [
        (
            [photos.pixels(0, 4, 4), photos.pixels(1, 4, 5)],
            [0, 1],
            None,
            r"image 1 has the shape \[3, 4, 5\] of uint8, and image 0 \[3, 4",
        ),
        ([np.zeros((2, 2, 2, 2))] * 2, [0, 1], None, "image 0: is no image of"),
        (["a", "b"], [0, 1], None, "image 0: is no image of"),
        ([photos.pixels(0, 4, 4)] * 2, [0, 1], View(4), "image 0: is a ndarray and no Pillow image"),
        ([photos.pixels(0, 4, 4)] * 2, [0, -1], None, r"labels go from -1 to 0; .*without a label"),
        ([photos.pixels(0, 4, 4)] * 2, [0.5, 1.0], None, "labels are float64"),
        ([photos.pixels(0, 4, 4)] * 2, [(0, 1), (1, 2)], None, r"labels are int64 \[2, 2\]"),
        ([photos.pixels(0, 4, 4)] * 2, ["cat", "dog"], None, "labels are <U3"),
        ([], [], None, r"has no \(image, label\) by number"),
    ],
)
def test_faults_of_other_data_sets(images, labels, view, said):
    with pytest.raises(DataError, match=f"mine: {said}"):
        from_torchvision(Listed(images, labels), Listed(images, labels), view=view, name="mine", clients=1, partition=Iid())


def test_images_of_another_size_are_found_when_they_are_used():
    dataset = Listed([photos.pixels(0, 4, 4), photos.pixels(1, 4, 4), photos.pixels(2, 3, 4), photos.pixels(3, 4, 4)], [0, 1, 0, 1])
    data = from_torchvision(dataset, lazily=True, held_out=0.5, name="mine", clients=1, partition=Iid())
    with pytest.raises(DataError, match=r"mine: image \d has the shape .*view.size"):
        torch.cat([data.global_train.all()["x"], data.global_test.all()["x"]])

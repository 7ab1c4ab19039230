import numpy as np
import pytest
import torch
from PIL import Image

from fedml_api.data import Cifar10, Cifar100, Cinic10, Emnist, Mnist
from fedml_api.data.cinic10 import CLASSES
from fedml_core.errors import DataError
from fedml_core.partition import Iid
from tests.fedml_api.data import official

FEW = {"clients": 2, "partition": Iid()}
MNIST = [(f"{half}-images-idx3-ubyte", f"{half}-labels-idx1-ubyte") for half in ("train", "t10k")]
draw = np.random.default_rng(0)


def cifar(root, folder, train, test, classes):
    """Ten records for testing and fifty in the files for training; returns labels and pixels by file."""
    (root / folder).mkdir()
    made = {}
    for name in (*train, *test):
        count = 10 if name in test else 50 // len(train)
        labels = np.stack([np.arange(count) % number for number in classes], axis=1).astype(np.uint8)
        pixels = draw.integers(0, 256, (count, 3, 32, 32)).astype(np.uint8)
        (root / folder / name).write_bytes(np.concatenate([labels, pixels.reshape(count, -1)], axis=1).tobytes())
        made[name] = labels, pixels
    return made


def cifar10(root):
    return cifar(root, "cifar-10-batches-bin", [f"data_batch_{k}.bin" for k in range(1, 6)], ["test_batch.bin"], [10])


def test_cifar10_in_its_order_with_channels_first(tmp_path):
    made = cifar10(tmp_path)
    data = Cifar10(**FEW).load(0, tmp_path)
    raw = np.concatenate([made[f"data_batch_{k}.bin"][1] for k in range(1, 6)])
    mean, deviation = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    expected = ((raw / 255).transpose(0, 2, 3, 1) - mean) / deviation
    x = data.global_train.all()["x"]
    assert (x.shape, x.dtype) == ((50, 3, 32, 32), torch.float32)
    assert np.allclose(x.numpy().transpose(0, 2, 3, 1), expected, atol=1e-5)
    assert data.global_test.all()["y"].tolist() == list(range(10))
    assert (len(data.global_test), data.classes, len(data.client_ids)) == (10, 10, 2)


@pytest.mark.parametrize("coarse", [False, True])
def test_cifar100_has_two_labels(tmp_path, coarse):
    made = cifar(tmp_path, "cifar-100-binary", ["train.bin"], ["test.bin"], [3, 10])
    data = Cifar100(coarse=coarse, **FEW).load(0, tmp_path)
    assert data.global_train.all()["y"].tolist() == made["train.bin"][0][:, 0 if coarse else 1].tolist()
    x = data.global_test.all()["x"][:, 1] * 0.2564 + 0.4865
    assert np.allclose(x, made["test.bin"][1][:, 1] / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-1], "truncated: 30729 bytes are not records of 3073"),
        (lambda data: b"", "truncated"),
        (lambda data: data[: 2 * 3073] + b"\x0a" + data[2 * 3073 + 1 :], "record 2 has label 10 in byte 0, not 0 to 9"),
    ],
)
def test_damaged_cifar(tmp_path, change, said):
    cifar10(tmp_path)
    path = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path}: {said}.*fedml data get cifar10"):
        Cifar10(**FEW).load(0, tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: not there; run: fedml data get cifar10"):
        Cifar10(**FEW).load(0, tmp_path)


def cinic(root, each=2):
    made = {}
    for part in ("train", "valid", "test"):
        for name in CLASSES:
            folder = root / "cinic10" / part / name
            folder.mkdir(parents=True)
            for k in range(each):
                pixels = draw.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{part}-{k}.png")
                made[part, name, k] = pixels
    grey = root / "cinic10" / "train" / "deer" / "train-0.png"
    Image.fromarray(made["train", "deer", 0][:, :, 0]).save(grey)
    return made


def test_cinic10_by_folder(tmp_path):
    made = cinic(tmp_path)
    data = Cinic10(**FEW).load(0, tmp_path)
    batch = data.global_test.all()
    assert (batch["x"].shape, batch["y"].tolist()) == ((20, 3, 32, 32), [k // 2 for k in range(20)])
    red = batch["x"][7, 0] * 0.24205776 + 0.47889522
    assert np.allclose(red, made["test", "cat", 1][:, :, 0] / 255, atol=1e-6)
    deer = data.global_train.all()["x"][8] * torch.tensor([0.24205776, 0.23828046, 0.25874835]).view(3, 1, 1)
    deer = deer + torch.tensor([0.47889522, 0.47227842, 0.43047404]).view(3, 1, 1)
    assert np.allclose(deer, np.broadcast_to(made["train", "deer", 0][:, :, 0] / 255, (3, 32, 32)), atol=1e-6)
    assert len(data.global_train) == 20
    larger = Cinic10(with_valid=True, **FEW).load(0, tmp_path)
    assert (len(larger.global_train), len(larger.global_test)) == (40, 20)
    assert larger.global_train.all()["y"].bincount().tolist() == [4] * 10


def test_damaged_cinic10(tmp_path):
    cinic(tmp_path, each=1)
    path = tmp_path / "cinic10" / "test" / "ship" / "test-0.png"
    whole = path.read_bytes()
    for content in (whole[:-200], b"", b"GIF89a"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path}: cannot be read as an image.*unpack"):
            Cinic10(**FEW).load(0, tmp_path)
    Image.new("RGB", (31, 32)).save(path)
    with pytest.raises(DataError, match=f"{path}: an image of 31x32 pixels"):
        Cinic10(**FEW).load(0, tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"ship: has no \.png files"):
        Cinic10(**FEW).load(0, tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dotted", [True, False])
def test_mnist_in_whatever_way_it_was_unpacked(tmp_path, zipped, dotted):
    stems = [tuple(name.replace("-idx", ".idx") if dotted else name for name in pair) for pair in MNIST]
    made = official.idx_files(tmp_path / "mnist", stems, classes=10, zipped=zipped)
    data = Mnist(**FEW).load(0, tmp_path)
    assert np.array_equal(data.global_train.all()["x"][:, 0].numpy(), made[0][0].astype(np.float32) / 255)
    assert data.global_test.all()["y"].tolist() == made[1][1].tolist()


def emnist(root, part, **settings):
    stems = [(f"emnist-{part}-{half}-images-idx3-ubyte", f"emnist-{part}-{half}-labels-idx1-ubyte") for half in ("train", "test")]
    return official.idx_files(root / "emnist", stems, **settings)


def test_emnist_is_upright(tmp_path):
    made = emnist(tmp_path, "digits", classes=10)
    data = Emnist(part="digits", **FEW).load(0, tmp_path)
    assert np.array_equal(data.global_train.all()["x"][3, 0].numpy(), made[0][0][3].T.astype(np.float32) / 255)


def test_the_letters_of_emnist_begin_at_0(tmp_path):
    emnist(tmp_path, "letters", classes=26, first=1, sizes=(52, 26))
    data = Emnist(part="letters", **FEW).load(0, tmp_path)
    assert data.global_test.all()["y"].tolist() == list(range(26))
    assert data.classes == 26
    emnist(tmp_path, "letters", classes=26, first=0, sizes=(52, 26))
    with pytest.raises(DataError, match=r"labels-idx1-ubyte.gz: not one label from 1 to 26"):
        Emnist(part="letters", **FEW).load(0, tmp_path)


def test_idx_files_that_are_missing_or_of_another_set(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: not there; run: fedml data get mnist"):
        Mnist().load(0, tmp_path)
    with pytest.raises(DataError, match=r"emnist-bymerge-train-images-idx3-ubyte.gz: not there; put the files of emnist-bymerge"):
        Emnist(part="bymerge").load(0, tmp_path)
    official.idx_files(tmp_path / "mnist", MNIST, classes=11)
    with pytest.raises(DataError, match="not one label from 0 to 9"):
        Mnist(**FEW).load(0, tmp_path)
    emnist(tmp_path, "balanced", classes=48, sizes=(60, 60))
    with pytest.raises(DataError, match="not one label from 0 to 46"):
        Emnist(**FEW).load(0, tmp_path)
    official.idx_files(tmp_path / "mnist", MNIST, classes=10)
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{path}: cannot be read"):
        Mnist(**FEW).load(0, tmp_path)

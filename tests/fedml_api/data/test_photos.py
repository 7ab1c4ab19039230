"""Photos that are decoded when they are used."""

import io
import os

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from fedml_api import Experiment, FedAvg, FederatedDataset, LocalSGD, Standalone, simulate
from fedml_api.data import (
    Cifar10,
    Cifar100,
    DataSource,
    Gld23k,
    Gld160k,
    HuggingFace,
    ImageFolder,
    ImageNet,
    LeafCelebA,
    TorchvisionSet,
    View,
)
from fedml_api.data.decoded import Decoded, Rows, chosen, content, examples_of
from fedml_api.data.examine import describe_data, faults, overlap
from fedml_api.data.packaged import packaged_file
from fedml_api.data.pictures import Pictures, decode, listing
from fedml_api.distributed import Loopback
from fedml_api.vision import torchvision
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import Dirichlet, Iid, Shards
from fedml_core.settings import build, to_plain
from tests.fedml_api.data import photos

FEW = {"clients": 2, "partition": Iid()}
SMALL = View(8, "exact")


@pytest.fixture
def column():
    """Ten rows [2, 3], of which the k-th is full of k; and which rows were made."""
    asked = []

    def make(numbers):
        asked.extend(numbers)
        return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1).expand(-1, 2, 3).contiguous()

    return Decoded(Rows((2, 3), make, "ten"), torch.arange(10)), asked


def test_of_a_column_only_those_rows_are_made_that_are_looked_at(column):
    column, asked = column
    assert (column.shape, column.dtype, column.device.type, column[:1].nbytes) == ((10, 2, 3), torch.float32, "cpu", 24)
    assert column.is_floating_point()
    assert column.new_zeros(1, 3).tolist() == [[0, 0, 0]]
    examples = examples_of({"x": column, "y": torch.arange(10)})
    part = examples.subset(torch.tensor([7, 3, 9]))
    assert (len(examples), len(part), asked) == (10, 3, [])
    taken = part.take(torch.tensor([2, 0]))
    assert (taken["x"][:, 1, 2].tolist(), taken["y"].tolist(), asked) == ([9, 7], [9, 7], [9, 7])
    assert type(taken["x"]) is torch.Tensor
    assert [batch["x"][:, 0, 0].tolist() for batch in part.batches(2)] == [[7, 3], [9]]
    assert part.all()["x"][:, 0, 0].tolist() == [7, 3, 9]
    del asked[:]
    few = chosen(part, torch.tensor([1]))
    assert (type(content(few)["x"]), asked) == (Decoded, [])
    assert (few.all()["x"][0, 0, 0].item(), few.all()["y"].item(), set(asked)) == (3, 3, {3})


def test_a_column_is_a_tensor_to_whoever_computes_with_it(column):
    column, asked = column
    assert torch.equal(column[2:4] * 2, torch.tensor([4.0, 6.0]).view(2, 1, 1).expand(2, 2, 3))
    assert asked == [2, 3]
    out = torch.empty(2, 2, 3)
    assert torch.index_select(column, 0, torch.tensor([5, 1]), out=out) is out
    assert out[:, 0, 0].tolist() == [5, 1]
    assert column.to("meta").device.type == "meta"
    moved = examples_of({"x": column, "y": torch.arange(10)}).to(torch.device("meta"))
    assert {part.device.type for part in (*moved.columns.values(), moved.index)} == {"meta"}
    assert column.to(torch.float64).dtype == torch.float64
    assert column.index_select(1, torch.tensor([0])).shape == (10, 1, 3)


def test_two_columns_of_the_same_rows_have_the_same_fingerprint(column):
    column, asked = column
    rows = torch.arange(10)
    same = Decoded(Rows((2, 3), column.rows.make, "ten"), rows)
    assert column.fingerprint == same.fingerprint != same.picked(torch.arange(9)).fingerprint
    assert column.fingerprint != Decoded(Rows((2, 3), column.rows.make, "others"), rows).fingerprint
    assert not asked


@pytest.mark.parametrize(("height", "width"), [(31, 47), (64, 20), (7, 9), (24, 24)])
@pytest.mark.parametrize(("size", "crop"), [(16, 0.875), (15, 1.0), (9, 0.5)])
def test_a_view_is_that_of_torchvision(height, width, size, crop):
    transforms = torchvision("transforms")
    image = Image.fromarray(photos.pixels(size, height, width))
    usual = transforms.Compose([transforms.Resize(round(size / crop)), transforms.CenterCrop(size)])(image)
    found = View(size, crop=crop).pixels(image)
    assert np.array_equal(found, np.asarray(usual).transpose(2, 0, 1))
    squeezed = transforms.Resize((size, size))(image)
    assert np.array_equal(View(size, "squeeze").pixels(image), np.asarray(squeezed).transpose(2, 0, 1))


def test_a_real_photo_is_that_of_torchvision():
    """640x427 pixels in the wheel of scikit-learn."""
    try:
        path = packaged_file("scikit-learn", "sklearn/datasets/images/china.jpg")
    except DataError as error:
        pytest.skip(str(error))
    transforms = torchvision("transforms")
    usual = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    usual = transforms.Compose([*usual, transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    with Image.open(path) as photo:
        assert photo.size == (640, 427)
        expected = usual(photo)
    view = ImageNet().view
    assert torch.allclose(view.scaled(decode(path, view)[None])[0], expected, atol=1e-6)


def test_a_view_is_scaled_channel_by_channel():
    view = View(2, mean=(0.5, 0.25, 0.0), deviation=(0.5, 0.25, 2.0))
    pixels = np.array([255, 51, 102], np.uint8).reshape(1, 3, 1, 1).repeat(2, 2).repeat(2, 3)
    assert torch.allclose(view.scaled(pixels)[0, :, 1, 0], torch.tensor([1.0, -0.2, 0.2]))
    with pytest.raises(ConfigError, match="must both have 3 numbers"):
        View(mean=(0.5, 0.5, 0.5))
    with pytest.raises(ConfigError, match="must both have 1 numbers"):
        View(channels=1, mean=(0.5,) * 3, deviation=(0.5,) * 3)


def encoded(image, form, **options):
    memory = io.BytesIO()
    image.save(memory, form, **options)
    return memory.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "TGA", "GIF"])
def test_formats_and_modes(form):
    colours = np.zeros((8, 8, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    options = {"lossless": True} if form == "WEBP" else {}
    assert np.array_equal(decode(encoded(Image.fromarray(colours), form, **options), SMALL), colours.transpose(2, 0, 1))
    grey = Image.fromarray(photos.pixels(1, 8, 8)[:, :, 0])
    if form != "WEBP":
        assert np.array_equal(decode(encoded(grey, form), SMALL), np.asarray(grey)[None].repeat(3, 0))
        assert np.array_equal(decode(encoded(grey, form), View(8, "exact", channels=1)), np.asarray(grey)[None])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP", "PPM", "TGA", "GIF", "JPEG", "JPEG2000"])
def test_whatever_is_damaged_is_an_error_of_the_data(form):
    draw, whole = np.random.default_rng(0), encoded(Image.fromarray(photos.pixels(2, 8, 8)), form)
    view, refused = View(8, "squeeze"), 0
    for k in range(60):
        damaged = bytearray(whole[: len(whole) * k // 30] if k < 30 else whole)
        for place in draw.integers(0, max(1, min(len(damaged), 200)), 4 if k >= 30 else 0):
            damaged[place] = draw.integers(0, 256)
        try:
            assert decode(bytes(damaged), view).shape == (3, 8, 8)
        except DataError as error:
            refused += str(error).startswith("cannot be read as an image (")
    assert refused >= 10


def test_transparency_is_left_out_and_depth_refused():
    seen = photos.pixels(3, 8, 8)
    with_alpha = Image.fromarray(np.concatenate([seen, np.full((8, 8, 1), 7, np.uint8)], axis=2))
    assert np.array_equal(decode(encoded(with_alpha, "PNG"), SMALL), seen.transpose(2, 0, 1))
    palette = Image.fromarray(seen).quantize(4)
    shown = decode(encoded(palette, "PNG", transparency=bytes([0, 9, 255, 255])), SMALL)
    assert np.array_equal(shown, np.asarray(palette.convert("RGB")).transpose(2, 0, 1))
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999)
    with pytest.raises(DataError, match=r"mode I;16.*convert it to 8 bits"):
        decode(encoded(deep, "PNG"), SMALL)


def test_what_is_handed_to_other_programs_is_no_image(monkeypatch):
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    with pytest.raises(DataError, match="cannot be read as an image"):
        decode(script, SMALL)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match="cannot be read as an image"):
        decode(encoded(Image.fromarray(photos.pixels(0, 8, 8)), "PNG"), SMALL)


@pytest.mark.parametrize("lazily", [True, False])
def test_a_folder_for_each_class(tmp_path, lazily):
    made = photos.folders(tmp_path / "pets", classes=("cat", "dog", "Ape"))
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "pets" / "train" / "dog" / "0.png").rename(tmp_path / "pets" / "train" / "dog" / "Z.PNG")
    data = ImageFolder(folder="pets", view=View(12, crop=1.0), lazily=lazily, **FEW).load(0, tmp_path)
    assert (len(data.global_train), len(data.global_test), data.classes, data.name) == (9, 6, 3, "image_folder")
    batch, order = data.global_train.all(), [(name, k) for name in ("Ape", "cat", "dog") for k in range(3)]
    order[-3:] = [("dog", 1), ("dog", 2), ("dog", 0)]
    assert batch["y"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for x, (name, k) in zip(batch["x"], order, strict=True):
        assert np.array_equal(x.numpy(), made["train", name, k][:, 2:14].transpose(2, 0, 1).astype(np.float32) / 255)
    assert isinstance(data.global_train.columns["x"], Decoded) == lazily
    mine = [data.train(client).all() for client in data.client_ids]
    assert sorted(x.sum().item() for one in mine for x in one["x"]) == sorted(x.sum().item() for x in batch["x"])
    assert sum(len(data.test(client)) for client in data.client_ids) == 6
    assert data.label_counts().sum(axis=0).tolist() == [3, 3, 3]
    assert (list(faults(data)), overlap(data)) == ([], 0)
    assert describe_data(data)["column x"] == "float32 [3, 12, 12]"


def test_lazily_or_at_once_clients_hold_the_same_and_so_do_local_tests(tmp_path):
    photos.folders(tmp_path / "images", each=(6, 4))
    both = [
        ImageFolder(view=View(8), lazily=lazily, clients=3, partition=Dirichlet(0.5)).load(1, tmp_path) for lazily in (True, False)
    ]
    for client in "012":
        for part in ("train", "test"):
            one, other = (getattr(data, part)(client).all() for data in both)
            assert all(one[name].equal(column) for name, column in other.items())


def test_without_a_test_folder_the_same_images_of_every_class_are_held_out(tmp_path):
    made = photos.folders(tmp_path, parts=("images",), each=(5,))
    data = ImageFolder(view=View(12, crop=1.0), test=0.4, **FEW).load(3, tmp_path)
    assert (data.global_train.all()["y"].tolist(), data.global_test.all()["y"].tolist()) == ([0] * 3 + [1] * 3, [0, 0, 1, 1])
    assert overlap(data) == 0
    sums = {x.sum().item() for part in (data.global_train, data.global_test) for x in part.all()["x"]}
    assert len(sums) == len(made)
    assert (
        ImageFolder(view=View(12, crop=1.0), test=0.4, **FEW)
        .load(4, tmp_path)
        .global_test.all()["x"]
        .equal(data.global_test.all()["x"])
    )
    with pytest.raises(ConfigError, match=r"data.test = 0.01: of 10 images that is none"):
        ImageFolder(test=0.01, **FEW).load(0, tmp_path)
    held_out = ImageFolder(view=View(12), test=0.4, validation=0.34, **FEW).load(0, tmp_path)
    assert (len(held_out.global_train), len(held_out.global_test), overlap(held_out)) == (4, 2, 0)
    assert isinstance(held_out.global_test.columns["x"], Decoded)


def test_the_fingerprint_is_of_the_files(tmp_path):
    def fingerprint(**settings):
        return ImageFolder(**{"view": View(8), **FEW, **settings}).load(0, tmp_path).fingerprint

    photos.folders(tmp_path / "images")
    before = fingerprint()
    path = tmp_path / "images" / "train" / "cat" / "0.png"
    os.utime(path, (1, 1))
    assert fingerprint() == before != fingerprint(view=View(9))
    assert before != fingerprint(view=View(8, crop=1.0))
    assert before != fingerprint(clients=3)
    path.write_bytes(path.read_bytes() + b"more")
    larger = fingerprint()
    assert larger != before
    path.rename(path.with_name("00.png"))
    assert fingerprint() not in (larger, before)


def test_what_was_decoded_at_once_is_decoded_anew_when_a_file_was_written(tmp_path):
    photos.folders(tmp_path, parts=("a",), each=(2,))
    before = listing(tmp_path / "a", "")
    assert listing(tmp_path / "a", "").state == before.state
    os.utime(tmp_path / "a" / "dog" / "1.png", (1, 1))
    after = listing(tmp_path / "a", "")
    assert (after.fingerprint, after.names.tolist()) == (
        before.fingerprint,
        [b"cat/0.png", b"cat/1.png", b"dog/0.png", b"dog/1.png"],
    )
    assert after.state != before.state


def test_faults_of_folders(tmp_path):
    folder = tmp_path / "images"
    with pytest.raises(DataError, match=f"{folder}: has no folders; put a folder for each class into {folder}/train"):
        ImageFolder(**FEW).load(0, tmp_path)
    photos.folders(folder)
    (folder / "train" / "emu").mkdir()
    with pytest.raises(DataError, match=r"emu: has no .bmp, .gif, .* or .webp files"):
        ImageFolder(**FEW).load(0, tmp_path)
    photos.save(folder / "train" / "emu" / "0.png", photos.pixels(0))
    with pytest.raises(DataError, match=f"{folder}/test: has no folder 'emu', and {folder}/train has"):
        ImageFolder(**FEW).load(0, tmp_path)
    (folder / "train" / "emu" / "0.png").unlink()
    (folder / "train" / "emu").rmdir()
    path = folder / "test" / "dog" / "1.png"
    whole = path.read_bytes()
    for damaged in (whole[:300], b"", b"GIF89a"):
        path.write_bytes(damaged)
        data = ImageFolder(view=View(8), **FEW).load(0, tmp_path)
        with pytest.raises(DataError, match=f"{path}: cannot be read as an image .*; put a folder"):
            data.global_test.all()
        with pytest.raises(DataError, match=f"{path}: cannot be read as an image"):
            ImageFolder(view=View(8), lazily=False, **FEW).load(0, tmp_path)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=f"{folder}.*png: an image of 16x12 pixels, not 16x16"):
        ImageFolder(view=View(16, "exact"), lazily=False, **FEW).load(0, tmp_path)
    path.unlink()
    path.symlink_to(folder / "gone.png")
    with pytest.raises(DataError, match=f"{path}: cannot be read: No such file"):
        ImageFolder(**FEW).load(0, tmp_path)


@pytest.mark.parametrize("flat", [False, True])
def test_imagenet_in_its_official_folders(tmp_path, flat):
    if flat:
        pytest.importorskip("scipy")
    truth = photos.imagenet(tmp_path, flat)
    data = ImageNet(view=View(12, crop=1.0), clients=2, partition=Shards(1)).load(0, tmp_path)
    names = sorted(photos.SYNSETS.values())
    assert data.global_train.all()["y"].tolist() == [0, 0, 1, 1, 2, 2]
    seen = {k: np.asarray(Image.open(next((tmp_path / "imagenet/val").rglob(f"*{k:08}.JPEG")))) for k in range(1, 7)}
    found = {batch: int(label) for batch, label in zip(sums(data.global_test.all()["x"]), data.global_test.all()["y"], strict=True)}
    assert found == {
        round(float(seen[k][:, 2:14].sum()) / 255, 2): names.index(photos.SYNSETS[number]) for k, number in enumerate(truth, 1)
    }
    assert (data.classes, overlap(data), list(faults(data))) == (3, 0, [])
    assert ImageNet().view.mean == (0.485, 0.456, 0.406)


def sums(x):
    return [round(float(one.sum()), 2) for one in x]


def test_a_part_of_imagenet_has_the_tests_of_its_classes(tmp_path):
    pytest.importorskip("scipy")
    truth = photos.imagenet(tmp_path, flat=True)
    for path in (tmp_path / "imagenet" / "train" / "n02119789").iterdir():
        path.unlink()
    (tmp_path / "imagenet" / "train" / "n02119789").rmdir()
    data = ImageNet(view=View(8), **FEW).load(0, tmp_path)
    assert (data.classes, len(data.global_test)) == (2, sum(number != 2 for number in truth))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda base: (base / "train" / "cats").mkdir(), "cats: has no .* files"),
        (lambda base: (base / "train" / "n01440764").rename(base / "train" / "tench"), "tench: is not named after a synset"),
        (lambda base: (base / "val" / "ILSVRC2012_val_1.JPEG").write_bytes(b""), "ILSVRC2012_val_1.JPEG: none of the 6 images"),
        (lambda base: (base / "val" / f"ILSVRC2012_val_{0:08}.JPEG").write_bytes(b""), "val_00000000.JPEG: none of the 6 images"),
        (lambda base: (base / "val").rename(base / "test"), "val: not there; unpack the official archives"),
        (lambda base: truth(base).unlink(), "truth.txt: not there, and the images in val have no folders"),
        (lambda base: truth(base).write_text("2\n3\n1\n"), "ILSVRC2012_val_00000004.JPEG: none of the 3 images"),
        (lambda base: truth(base).write_text("2\nthree\n1\n1\n2\n1\n"), "line 2 is no number: 'three'"),
        (lambda base: truth(base).write_text("2\n3\n1\n1\n2\n999\n"), "line 6 says 999, which meta.mat does not know"),
        (lambda base: truth(base).write_text("2\n1\n1\n1\n2\n1\n"), "val: has no image of n01440764"),
        (lambda base: meta(base).unlink(), "meta.mat: not there"),
        (lambda base: meta(base).write_bytes(b"no matrix"), "meta.mat: holds no synsets"),
        (lambda base: meta(base).write_bytes(b""), "meta.mat: holds no synsets"),
        (lambda base: meta(base).write_bytes(meta(base).read_bytes()[:400]), "meta.mat: holds no synsets"),
    ],
)
def test_faults_of_imagenet(tmp_path, damage, said):
    pytest.importorskip("scipy")
    photos.imagenet(tmp_path, flat=True)
    damage(tmp_path / "imagenet")
    with pytest.raises(DataError, match=said):
        ImageNet(**FEW).load(0, tmp_path)


def truth(base):
    return base / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt"


def meta(base):
    return base / "ILSVRC2012_devkit_t12/data/meta.mat"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("source", [Gld23k, Gld160k])
def test_landmarks_by_photographer(tmp_path, source, packed):
    made = photos.landmarks(tmp_path, source.names, source.classes)
    data = source(view=View(12, crop=1.0), packed=packed).load(0, tmp_path)
    assert (list(data.client_ids), dict(data.sizes)) == (["100", "12", "7"], {"100": 3, "12": 2, "7": 1})
    for user in (*data.client_ids, None):
        batch = (data.train(user) if user else data.global_test).all()
        mine = {image: about for image, about in made.items() if about[1] == user}
        assert batch["y"].tolist() == [label for _, _, label in mine.values()]
        for x, image in zip(batch["x"], mine, strict=True):
            with Image.open(tmp_path / "landmarks" / "train" / image[0] / image[1] / image[2] / f"{image}.jpg") as saved:
                assert np.array_equal(x.numpy(), np.asarray(saved)[:, 2:14].transpose(2, 0, 1).astype(np.float32) / 255)
    assert (data.classes, len(data.global_test), overlap(data), list(faults(data))) == (source.classes, 2, 0, [])
    assert all(len(data.test(user)) == 0 for user in data.client_ids)
    assert data.label_counts().sum() == 6


def test_photographers_are_regrouped_and_photos_are_read_when_used(tmp_path):
    photos.landmarks(tmp_path)
    data = Gld23k(clients=2, regroup="merge", view=View(8)).load(0, tmp_path)
    assert (sum(data.sizes.values()), len(data.client_ids), len(data.global_test)) == (6, 2, 2)
    one = Gld23k(view=View(8)).load(0, tmp_path)
    train = one.train("100")
    assert (len(train), train.columns["x"].shape, one.global_test.columns["x"].shape) == (3, (3, 3, 8, 8), (2, 3, 8, 8))
    path = next((tmp_path / "landmarks" / "train").rglob("*00000000003.jpg"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=f"{path}: cannot be read as an image .* get it again .*cvdfoundation"):
        train.all()
    assert one.train("7").all()["x"].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("user_id", "author"), r"has no column user_id \(found: author, image_id, class\)"),
        (lambda text: text + "7,../../etc/passwd,3\n", "line 8: image_id '../../etc/passwd' is no 16 hexadecimal digits"),
        (lambda text: text + "7,0000000000000000,203\n", "line 8: class '203' is none of 0 to 202"),
        (lambda text: text + "7,0000000000000000,-1\n", "line 8: class '-1'"),
        (lambda text: text + "7,0000000000000000,x\n", "line 8: class 'x'"),
        (lambda text: text + ",0000000000000000,2\n", "line 8: has no user_id"),
        (lambda text: text + "7,000000\n", "line 8: image_id '000000'"),
        (lambda text: text[:-1].rpartition(",")[0], "line 7: class '' is none"),
        (lambda text: text + "7,ffffffffffffffff,2\n", "f/f/f/ffffffffffffffff.jpg: not there, like 0 more of 7; put mini_gld"),
        (lambda text: "user_id,image_id,class\n", "has no rows"),
        (lambda text: "", "has no column user_id, image_id, class .found: nothing"),
        (lambda text: b"user_id,image_id,class\n\xff\xfe", "cannot be read as CSV"),
    ],
)
def test_faults_of_landmarks(tmp_path, change, said):
    photos.landmarks(tmp_path)
    path = tmp_path / "landmarks" / "mini_gld_train_split.csv"
    changed = change(path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(DataError, match=said):
        Gld23k().load(0, tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: not there; put mini_gld_train_split.csv and mini_gld_test.csv"):
        Gld23k().load(0, tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_celebrities_smile_or_not(tmp_path, packed):
    made = photos.celeba(tmp_path)
    data = LeafCelebA(packed=packed).load(0, tmp_path)
    assert (list(data.client_ids), dict(data.sizes), data.classes) == (["17", "4"], {"17": 2, "4": 1}, 2)
    assert (data.train("17").all()["y"].tolist(), data.test("4").all()["y"].tolist()) == ([0, 1], [0])
    x = data.train("17").all()["x"]
    with Image.open(tmp_path / "leaf_celeba" / "img_align_celeba" / "000002.jpg") as photo:
        expected = np.asarray(photo.resize((84, 84), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(x[1].numpy(), expected.astype(np.float32) / 255)
    assert (x.shape, len(data.global_test), overlap(data), list(faults(data))) == ((2, 3, 84, 84), 2, 0, [])
    assert sum(data.sizes.values()) + len(data.global_test) == len(made)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda user: user["x"].__setitem__(0, "../../etc/passwd"), "user '17': x has '../../etc/passwd', and not only names"),
        (lambda user: user["x"].__setitem__(0, 7), "user '17': x has 7"),
        (lambda user: user["y"].__setitem__(0, 2), "user '17': y has 2; classes are 0 and 1"),
        (lambda user: user["y"].__setitem__(0, [1]), "user '17': y has .1.; classes"),
        (lambda user: user["x"].__setitem__(0, "999999.jpg"), "999999.jpg: not there, like 0 more of 2; put the folders"),
        (lambda user: user["x"].pop(), "1 x and 2 y"),
    ],
)
def test_faults_of_celeba(tmp_path, change, said):
    photos.celeba(tmp_path)
    (path,) = (tmp_path / "leaf_celeba" / "train").glob("*.json")
    photos.edit_json(path, lambda content: change(content["user_data"]["17"]))
    with pytest.raises(DataError, match=said):
        LeafCelebA().load(0, tmp_path)


def test_cifar_in_folders_is_the_binary_version_in_the_order_of_its_classes(tmp_path):
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    made = photos.folders(tmp_path / "cifar10", classes=names, each=(5, 1), size=(32, 32))
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for part, files in (("train", [f"data_batch_{k}" for k in range(1, 6)]), ("test", ["test_batch"])):
        records = [
            bytes([label]) + made[part, name, k].transpose(2, 0, 1).tobytes()
            for label, name in enumerate(names)
            for k in range(5 if part == "train" else 1)
        ]
        for j, file in enumerate(files):
            own = records[j * len(records) // len(files) : (j + 1) * len(records) // len(files)]
            (tmp_path / "cifar-10-batches-bin" / f"{file}.bin").write_bytes(b"".join(own))
    folders, binary = (Cifar10(form=form, **FEW).load(0, tmp_path) for form in ("folders", "binary"))
    assert folders.fingerprint == binary.fingerprint
    (tmp_path / "cifar10" / "train" / "extra").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/cifar10/train: has 11 folders; put a folder for each of the 10 classes"):
        Cifar10(form="folders", **FEW).load(0, tmp_path)
    with pytest.raises(ConfigError, match="coarse = true: folders are of the 100 classes"):
        Cifar100(form="folders", coarse=True)


def test_photos_together_larger_than_memory_are_never_all_decoded(tmp_path, monkeypatch):
    """Fifty thousand photos of 224x224 would take 30 GB: evaluating looks at a batch at a time, and so does a client's training."""
    photos.folders(tmp_path / "images", each=(20, 12), size=(8, 8))
    data = ImageFolder(view=View(64), **FEW).load(0, tmp_path)
    most, pixels = [0], Pictures.pixels

    def counted(self, rows):
        most[0] = max(most[0], len(rows))
        return pixels(self, rows)

    monkeypatch.setattr(Pictures, "pixels", counted)
    for batch in data.train("0").batches(4):
        assert batch["x"].shape == (4, 3, 64, 64)
    assert most[0] == max(4, 2**20 // (4 * 3 * 64 * 64) // 4 * 4)


@pytest.mark.parametrize(
    "engine",
    [Standalone(executor="sequential", processes=1), Standalone(executor="sequential", processes=2), Loopback(workers=2)],
    ids=["one", "two", "loopback"],
)
@pytest.mark.parametrize("natural", [False, True])
def test_training_on_what_is_decoded_on_demand_gives_the_bits_of_data_in_memory(tmp_path, engine, natural):
    if natural:
        photos.landmarks(tmp_path)
        data = Gld23k(view=View(6)).load(0, tmp_path)
    else:
        photos.folders(tmp_path / "images", each=(9, 4))
        data = ImageFolder(view=View(6), clients=3, partition=Dirichlet(0.5)).load(0, tmp_path)
    held = {client: data.train(client).all() for client in data.client_ids}
    memory = FederatedDataset.from_clients(held, data.global_test.all(), data.classes)

    def sha(data, engine):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(108, data.classes))
        about = {"rounds": 2, "clients_per_round": 3, "threads": 1, "algorithm": FedAvg(LocalSGD(lr=0.1, batch_size=2))}
        result = simulate(Experiment(network, data, engine=engine, **about))
        return result.sha256, result.last["test_loss"]

    assert sha(data, engine) == sha(memory, engine)


def test_clients_with_photos_are_stacked(tmp_path):
    photos.folders(tmp_path / "images", each=(9, 4))
    both = [ImageFolder(view=View(6), lazily=lazily, clients=3, partition=Iid()).load(0, tmp_path) for lazily in (True, False)]
    found = []
    for data in both:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
        engine = Standalone(executor="stacked", block=3, processes=1)
        found.append(simulate(Experiment(network, data, engine=engine, rounds=2, clients_per_round=3, threads=1)).sha256)
    assert found[0] == found[1]


def test_a_configuration_that_is_written_down_is_read_back():
    sources = [
        ImageFolder(folder="a", view=View(8, mean=(0.5,) * 3, deviation=(0.5,) * 3)),
        TorchvisionSet(dataset="EMNIST", options={"split": "letters", "download": False}, view=View(8)),
        HuggingFace(path="csv", data_files={"train": "a.csv"}, features=("a", "b"), client="c"),
        Gld23k(view=View(16, "squeeze", channels=1)),
    ]
    for source in sources:
        problems = []
        assert build(DataSource, yaml.safe_load(yaml.safe_dump(to_plain(source))), "data", problems) == source
        assert problems == []
    problems = []
    build(DataSource, {"name": "imagenet", "view": {"size": 0, "fit": "corp"}}, "data", problems)
    assert [line.partition(" =")[0] for line in problems] == ["data.view.size", "data.view.fit"]

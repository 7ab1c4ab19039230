"""Data sets of Hugging Face's package, from Python and from local files; nothing here needs a network."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fedml_api.data import HuggingFace, View, from_hugging_face
from fedml_api.data.decoded import Decoded
from fedml_api.data.examine import faults, overlap
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import Dirichlet, Iid, Noise
from tests.fedml_api.data import photos

datasets = pytest.importorskip("datasets", reason='Hugging Face\'s datasets is not installed (pip install "fedml[hf]")')
FEW = {"clients": 2, "partition": Iid()}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Whoever asks for the network fails at once; nothing is kept outside the test's folder."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):  # as the newer and the older versions call it
        monkeypatch.setattr(datasets.config, name, True, raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def png(pixels):
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, "PNG")
    return memory.getvalue()


def pictures(count, first=0, classes=("cat", "dog")):
    """Images with labels, as Hugging Face's sets of images have them."""
    pixels = [photos.pixels(first + k, 6, 8) for k in range(count)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))})
    columns = {"image": [{"bytes": png(one), "path": None} for one in pixels], "label": [k % 2 for k in range(count)]}
    return pixels, datasets.Dataset.from_dict(columns, features=features)


def numbers(count, first=0, **more):
    rows = np.arange(first, first + count)
    columns = {"age": rows.tolist(), "height": (rows / 4).tolist(), "label": (rows % 3).tolist()}
    return datasets.Dataset.from_dict({**columns, **{name: make(rows) for name, make in more.items()}})


@pytest.mark.parametrize("lazily", [False, True])
def test_images_and_their_classes(lazily):
    (pixels, train), (_, test) = pictures(6), pictures(4, first=50, classes=("cat", "dog"))
    data = from_hugging_face(datasets.DatasetDict({"train": train, "test": test}), lazily=lazily, **FEW)
    batch = data.global_train.all()
    assert np.array_equal(batch["x"].numpy(), np.stack(pixels).transpose(0, 3, 1, 2).astype(np.float32) / 255)
    assert (batch["x"].dtype, batch["y"].dtype, batch["y"].tolist()) == (torch.float32, torch.int64, [0, 1, 0, 1, 0, 1])
    assert (data.classes, len(data.global_test), overlap(data), list(faults(data))) == (2, 4, 0, [])
    assert isinstance(data.global_train.columns["x"], Decoded) == lazily
    assert sum(len(data.test(client)) for client in data.client_ids) == 4
    small = from_hugging_face({"train": train, "test": test}, view=View(4, crop=1.0, channels=1), lazily=lazily, **FEW)
    assert small.global_train.all()["x"].shape == (6, 1, 4, 4)


def test_classes_are_those_that_the_data_set_names():
    _, train = pictures(4, classes=("cat", "dog", "emu"))
    assert from_hugging_face(train, held_out=0.5, **FEW).classes == 3


def test_without_a_test_part_rows_are_held_out_class_by_class():
    data = from_hugging_face(numbers(30), ["age"], held_out=0.2, seed=4, **FEW)
    assert (len(data.global_train), data.global_test.all()["y"].bincount().tolist(), overlap(data)) == (24, [2, 2, 2], 0)
    again = from_hugging_face(numbers(30), ["age"], held_out=0.2, seed=5, **FEW)
    assert again.global_test.all()["x"].equal(data.global_test.all()["x"])


def test_numbers_stand_side_by_side_in_the_order_that_is_asked_for():
    data = from_hugging_face({"train": numbers(6), "test": numbers(3, 6)}, ["height", "age"], **FEW)
    x = data.global_train.all()["x"]
    assert (x.dtype, x.tolist()) == (torch.float32, [[k / 4, k] for k in range(6)])
    single = from_hugging_face({"train": numbers(6), "test": numbers(3, 6)}, "height", **FEW)
    assert single.global_test.all()["x"].tolist() == [k / 4 for k in range(6, 9)]
    rows = numbers(6, sensors=lambda rows: [[float(k), 1.0] for k in rows])
    both = from_hugging_face({"train": rows, "test": rows}, ["sensors", "age"], **FEW)
    assert both.global_train.all()["x"][4].tolist() == [4, 1, 4]


def test_bytes_of_pixels_are_channels_first_and_numbers_of_words_stay_whole():
    pixels = np.stack([photos.pixels(k, 4, 5) for k in range(4)])
    features = datasets.Features({"image": datasets.Array3D((4, 5, 3), "uint8"), "label": datasets.Value("int64")})
    table = datasets.Dataset.from_dict({"image": pixels.tolist(), "label": [0, 1, 0, 1]}, features=features)
    x = from_hugging_face({"train": table, "test": table}, **FEW).global_train.all()["x"]
    assert np.array_equal(x.numpy(), pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    words = numbers(4, words=lambda rows: [[int(k), 7, 0] for k in rows])
    data = from_hugging_face({"train": words, "test": words}, "words", tokens=True, **FEW)
    assert (data.global_train.all()["x"].dtype, data.global_train.all()["x"][2].tolist()) == (torch.int64, [2, 7, 0])
    with pytest.raises(DataError, match=r"'height' holds .*tokens are whole numbers"):
        from_hugging_face({"train": words, "test": words}, "height", tokens=True, **FEW)


def test_classes_that_are_texts_are_numbered_in_their_order():
    def table(names):
        return datasets.Dataset.from_dict({"x": [float(k) for k in range(len(names))], "kind": names})

    data = from_hugging_face({"train": table(["fox", "ant", "bee", "fox"]), "test": table(["bee", "ant"])}, "x", "kind", **FEW)
    assert (data.global_train.all()["y"].tolist(), data.global_test.all()["y"].tolist(), data.classes) == ([2, 0, 1, 2], [1, 0], 3)
    with pytest.raises(DataError, match="column 'kind': 'cat' is a class of the test part alone"):
        from_hugging_face({"train": table(["ant", "bee"]), "test": table(["cat"])}, "x", "kind", **FEW)


def test_clients_are_those_of_a_column():
    owner = {"writer": lambda rows: [f"w{k % 3}" for k in rows]}
    train, test = numbers(9, **owner), numbers(4, 9, writer=lambda rows: ["w2", "w0", "nobody", "w2"])
    data = from_hugging_face({"train": train, "test": test}, "age", client="writer")
    assert (data.client_ids, data.sizes) == (("w0", "w1", "w2"), {"w0": 3, "w1": 3, "w2": 3})
    assert data.train("w1").all()["x"].tolist() == [1, 4, 7]
    assert [data.test(client).all()["x"].tolist() for client in data.client_ids] == [[10], [], [9, 12]]
    assert (len(data.global_test), set(data.global_train.columns), overlap(data)) == (4, {"x", "y"}, 0)
    held_out = from_hugging_face(numbers(30, **owner), "age", client="writer", held_out=0.3)
    for k, client in enumerate(held_out.client_ids):
        mine = held_out.train(client).all()["x"].tolist() + held_out.test(client).all()["x"].tolist()
        assert sorted(mine) == list(range(k, 30, 3))
    whole = numbers(4, writer=lambda rows: [int(k) % 2 for k in rows])
    assert from_hugging_face({"train": whole, "test": whole}, "age", client="writer").client_ids == ("0", "1")


@pytest.mark.parametrize("given", [{"clients": 4}, {"partition": Iid()}, {"skew": Noise()}])
def test_who_has_clients_asks_for_no_others(given):
    with pytest.raises(ConfigError, match=f"client = 'writer': .*leave out {next(iter(given))}, or client"):
        HuggingFace(path="mine", client="writer", **given)


def table_files(folder, kind):
    folder.mkdir(parents=True, exist_ok=True)
    for part, table in (("train", numbers(12)), ("test", numbers(6, 12))):
        getattr(table, f"to_{kind}")(str(folder / f"{part}.{kind}"))


@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_local_files(tmp_path, kind):
    table_files(tmp_path / "mine", kind)
    settings = {"features": ("age", "height"), "clients": 3, "partition": Dirichlet(1.0)}
    files = {part: f"mine/{part}.{kind}" for part in ("train", "test")}
    data = HuggingFace(path=kind, data_files=files, **settings).load(1, tmp_path)
    assert data.global_test.all()["x"].tolist() == [[k, k / 4] for k in range(12, 18)]
    assert (data.classes, data.name, overlap(data)) == (3, "hugging_face", 0)
    assert HuggingFace(path="mine", **settings).load(1, tmp_path).fingerprint == data.fingerprint
    alone = HuggingFace(path=f"mine/train.{kind}", test=0.25, **settings).load(1, tmp_path)
    assert (len(alone.global_train), len(alone.global_test)) == (9, 3)
    tuned = HuggingFace(path="mine", validation=0.25, **settings).load(1, tmp_path)
    assert (len(tuned.global_train), len(tuned.global_test), tuned.name) == (9, 3, "hugging_face (validation)")


def test_a_folder_of_images_and_one_that_was_saved(tmp_path):
    made = photos.folders(tmp_path / "pets", size=(8, 8))
    data = HuggingFace(path="pets", **FEW).load(0, tmp_path)
    assert (len(data.global_train), len(data.global_test), data.classes) == (6, 4, 2)
    batch = data.global_train.all()
    expected = {made["train", name, k].sum() / 255: label for label, name in enumerate(("cat", "dog")) for k in range(3)}
    found = {x.double().sum().item(): label for x, label in zip(batch["x"], batch["y"].tolist(), strict=True)}
    assert sorted(found.values()) == [0, 0, 0, 1, 1, 1]
    assert np.allclose(sorted(found), sorted(expected), atol=1e-3)
    assert [found[one] for one in sorted(found)] == [expected[one] for one in sorted(expected)]
    _, table = pictures(6)
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "saved"))
    assert len(HuggingFace(path="saved", **FEW).load(0, tmp_path).global_train) == 6


def test_the_fingerprint_of_what_is_decoded_on_demand_is_of_the_table():
    (_, one), (_, other) = pictures(6), pictures(6, first=9)

    def fingerprint(table, **settings):
        return from_hugging_face({"train": table, "test": one}, lazily=True, **FEW, **settings).fingerprint

    assert fingerprint(one) == fingerprint(pictures(6)[1]) != fingerprint(other)
    assert fingerprint(one) != fingerprint(one, view=View(4))


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({}, ConfigError, "data.path is missing"),
        ({"path": "mine.py"}, ConfigError, "mine.py': a script, and no code of a data set is run; convert it to Parquet"),
        ({"path": "scripted"}, ConfigError, "scripted holds a script, which is not run; convert"),
        ({"path": "pandas"}, ConfigError, "'pandas': files that some versions of datasets unpickle"),
        (
            {"path": "csv", "data_files": {"train": "mine/gone.csv"}},
            DataError,
            "gone.csv: not there; data.data_files are files",
        ),
        ({"path": "somebody/somewhere"}, DataError, "'somebody/somewhere': cannot be loaded"),
        ({"path": "mine", "train_split": "trian"}, ConfigError, r"data.train_split: .*did you mean 'train'"),
        ({"path": "mine", "test_split": "tets"}, ConfigError, r"data.test_split: .*did you mean 'test'"),
        ({"path": "mine", "features": ("agee",)}, ConfigError, r"part 'train': .*did you mean 'age'"),
        ({"path": "mine", "features": ()}, ConfigError, "features = .*say which columns"),
        ({"path": "mine", "features": ("age",), "label": "lable"}, ConfigError, "did you mean 'label'"),
        ({"path": "mine", "features": ("age",), "client": "writer"}, ConfigError, r"'writer'"),
        ({"path": "mine", "features": ("age",), "label": "height"}, DataError, "'height': holds .*not one whole number or text"),
        ({"path": "mine", "features": ("age",), "view": View(8)}, ConfigError, "view of images alone, and 'age' is none"),
        ({"path": "damaged"}, DataError, "'damaged': cannot be loaded"),
        ({"path": "binary"}, DataError, "'binary': cannot be loaded"),
    ],
)
def test_what_is_refused(tmp_path, settings, error, said):
    table_files(tmp_path / "mine", "csv")
    others = ("scripted", "scripted.py", b"1/0"), ("damaged", "a.parquet", b"PAR1"), ("binary", "a.json", b"\xff\xfe{")
    for name, file, content in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(content)
    with pytest.raises(error, match=said):
        HuggingFace(**({} if "client" in settings else FEW), **settings).load(0, tmp_path)


@pytest.mark.parametrize(
    ("columns", "features", "said"),
    [
        ({"x": ["a", "b"]}, "x", r"column 'x' holds Value\(.*string.*not as many numbers in every row"),
        ({"x": [[1.0], [1.0, 2.0]]}, "x", "not as many numbers in every row"),
        ({"x": [1.0, None]}, "x", "no finite number|none missing"),
        ({"x": [1.0, float("inf")]}, "x", "has what is no finite number"),
        ({"x": [1.0, 2.0], "label": [0, -1]}, "x", "labels go from -1 to 0; classes .*-1 is often an example without a label"),
        ({"x": [1.0, 2.0], "label": [0, None]}, "x", "column 'label': has rows without a value"),
        ({"x": [1.0, 2.0], "label": [0.5, 1.0]}, "x", "column 'label': holds .*float64.*"),
    ],
)
def test_faults_of_tables(columns, features, said):
    table = datasets.Dataset.from_dict({"label": [0, 1], **columns})
    with pytest.raises(DataError, match=said):
        from_hugging_face({"train": table, "test": table}, features, **FEW)


def test_faults_of_images():
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})

    def load(*images, **settings):
        columns = {"image": [one and {"bytes": one, "path": None} for one in images], "label": [0] * len(images)}
        table = datasets.Dataset.from_dict(columns, features=features)
        return from_hugging_face({"train": table, "test": table}, clients=1, partition=Iid(), **settings)

    good, other = png(photos.pixels(0, 4, 4)), png(photos.pixels(1, 4, 5))
    with pytest.raises(DataError, match="part 'train': image 1: cannot be read as an image"):
        load(good, good[:60])
    with pytest.raises(DataError, match="part 'train': image 1: is not there"):
        load(good, None)
    with pytest.raises(DataError, match=r"image 1 has the shape \[3, 4, 5\] of uint8, and image 0 \[3, 4, 4\] .*view.size"):
        load(good, other)
    with pytest.raises(DataError, match="image 1: cannot be read as an image"):
        load(good, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    assert load(good, other, view=View(4)).global_train.all()["x"].shape == (2, 3, 4, 4)

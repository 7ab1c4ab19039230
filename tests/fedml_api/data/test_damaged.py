"""What is wrong with files is said, with their names and the remedy; whatever is in them, for every data set."""

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fedml_api.data
from fedml_api.data import data_sources, download
from fedml_api.data.examine import faults
from fedml_api.data.tff import TffSource
from fedml_core.errors import ConfigError, DataError
from tests.fedml_api.data import official, sources
from tests.fedml_api.data.sources import DRAWN, ELSEWHERE, SOURCES, everything, made, written

# Mutations of each data set; with another SEED they are others.
MUTATIONS, SEED = 6, 0
# Files looked at one by one, of data sets that have many.
MOST = 3
REMEDY = r"(run: |put |get |unpack |is at |it is the file |lower |ask for |write it )"


@pytest.fixture(scope="session")
def originals(tmp_path_factory):
    """The files of a data set and what is in them, by its name: written once."""
    kept = {}

    def original(name):
        if name not in kept:
            if SOURCES[name].needs:
                pytest.importorskip(SOURCES[name].needs)
            folder = tmp_path_factory.mktemp(name)
            written(name, folder)
            with pytest.MonkeyPatch.context() as patch:
                kept[name] = folder, everything(made(name, folder, patch), folder)
        return kept[name]

    return original


@pytest.fixture
def whole(request, tmp_path, originals, monkeypatch):
    """The settings, the files and the content of a data set, to be damaged."""
    name = request.param
    folder, content = originals(name)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    return made(name, tmp_path, monkeypatch), files, content


def sources_that(condition=lambda source: True):
    return pytest.mark.parametrize("whole", [name for name, source in SOURCES.items() if condition(source)], indirect=True)


def same(one, other):
    return one.keys() == other.keys() and all(
        one[part].keys() == other[part].keys() and all(torch.equal(one[part][name], other[part][name]) for name in one[part])
        for part in one
    )


def forms(batch):
    """Type and dimensions of each column; some widths depend on what is in the files."""
    return {name: (column.dtype, column.dim()) for name, column in batch.items()}


def refused(source, root):
    """What is said, and what is read: one of them is None. Anything else than a DataError is an error of ours."""
    try:
        return None, everything(source, root)
    except DataError as error:
        message = str(error)
    except ConfigError as error:  # what is left is too little for the settings
        message = str(error)
        assert re.search(r"^(data\.\w+|clients) = ", message), message
    assert re.search(REMEDY, message), message
    return message, None


def read(path):
    """Whether a data set needs the file; some folders hold files for several."""
    return not (path.name == "stackoverflow.tag_count" or "valid" in path.parts)


def some(files):
    most = MOST if len(files) < 20 else 2
    return [path for path in files if read(path)][:: max(1, len(files) // most)][:MOST]


def test_every_data_set_that_is_read_from_files_is_damaged_here():
    missing = sorted(set(data_sources) - set(SOURCES) - DRAWN - ELSEWHERE)
    assert not missing, (
        f"{', '.join(missing)}: add to SOURCES in tests/fedml_api/data/sources.py what writes a small set of its official files, "
        "or to DRAWN if it has none"
    )
    assert set(SOURCES) | DRAWN | ELSEWHERE <= set(data_sources)


@sources_that(lambda source: not source.loose)
def test_a_file_that_is_absent_is_missed(whole, tmp_path):
    source, files, _ = whole
    for path in some(files):
        kept = path.read_bytes()
        path.unlink()
        message, _ = refused(source, tmp_path)
        assert message is not None, path
        # Some name their files as they like: a folder is named that has none, or too few.
        named = path.name in message or path.suffix in (".json", ".png", ".JPEG", ".md")
        assert named, message
        assert str(path.parent) in message or (path.suffix == ".md" and str(path.parents[1]) in message)
        path.write_bytes(kept)


@sources_that(lambda source: not source.text)
def test_a_file_that_was_cut_is_never_read_as_if_it_were_whole(whole, tmp_path):
    """Of a table, that is: in the middle of a line. Between two lines it is a smaller table, as far as anybody knows."""
    source, files, content = whole
    for path in some(files):
        kept = path.read_bytes()
        for end in (0, len(kept) // 50, len(kept) // 2, len(kept) - 2, len(kept) - 1):
            while end > 1 and kept[end - 1 : end] == b"\n":
                end -= 1
            path.write_bytes(kept[:end])
            message, found = refused(source, tmp_path)
            if message is None:  # what is cut off says nothing, such as the count behind the last word
                assert same(found, content), f"{path.name} was cut at {end} of {len(kept)} bytes, and nothing is said"
            else:
                assert str(path) in message
        path.write_bytes(kept)


@sources_that()
def test_random_bytes_are_refused_by_name_or_harmless(whole, tmp_path, request):
    """Most formats have no checksum: another pixel is a pixel. But whatever is read has to be what the data set promises."""
    source, files, content = whole
    files = [path for path in files if read(path)]
    draw = np.random.default_rng([SEED, *map(ord, request.node.callspec.id)])
    for _ in range(MUTATIONS):
        path = files[draw.integers(len(files))]
        kept = path.read_bytes()
        damaged = bytearray(kept)
        # Half of them near the beginning, where the headers are.
        within = len(kept) if draw.random() < 0.5 else min(len(kept), 2000)
        for place in draw.integers(0, within, draw.integers(1, 5)):
            damaged[place] = draw.integers(256)
        path.write_bytes(damaged)
        message, found = refused(source, tmp_path)
        if message is not None:
            assert str(path) in message or re.search(r"^(data\.\w+|clients) = ", message)
        else:
            for part, batch in content.items():
                assert part not in found or forms(found[part]) == forms(batch)
            assert list(faults(source.load(0, tmp_path))) == []
        path.write_bytes(kept)
    assert same(everything(source, tmp_path), content)


# By format: keys, types, lengths, and clients


def features(name):
    source = data_sources[name](**SOURCES[name].settings)
    return source.features


HDF5 = sorted(name for name in SOURCES if issubclass(data_sources[name], TffSource))
PLACES = [(name, feature) for name in HDF5 for feature in features(name)]


def hdf5_fault(name, tmp_path, monkeypatch, change, part="train"):
    """What is said of a file in which the first client has been changed; the file and the client."""
    h5py = pytest.importorskip("h5py")
    written(name, tmp_path)
    source = made(name, tmp_path, monkeypatch)
    path = source.files(tmp_path)[part == "test"]
    with h5py.File(path, "r+") as file:
        client = sorted(file["examples"])[0]
        change(file["examples"], client)
    message, _ = refused(source, tmp_path)
    assert message is not None
    assert message.startswith(f"{path}: ")
    assert source.remedy(tmp_path) in message
    return message, f"/examples/{client}"


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(("name", "feature"), PLACES)
def test_hdf5_features_of_another_name_type_or_length(name, feature, part, tmp_path, monkeypatch):
    import h5py

    def another(value):
        def change(examples, client):
            old = examples[client][feature]
            del examples[client][feature]
            examples[client][feature] = value(old)

        return change

    wanted = features(name)[feature]
    other = np.zeros(5) if wanted.kind != "float" else np.zeros(5, np.int32)
    strings = h5py.vlen_dtype(np.dtype("int32"))
    cases = {
        "is missing": lambda examples, client: examples[client].move(feature, "else"),
        f"holds {other.dtype} [5], not {wanted.kind}": another(lambda old: other),
        "holds": another(lambda old: np.zeros(3, np.complex64)),
        "holds float64 []" if other.dtype == np.float64 else "holds int32 []": another(lambda old: other[0]),
    }
    for said, change in cases.items():
        message, client = hdf5_fault(name, tmp_path / said[:9].strip(), monkeypatch, change, part)
        assert f"{client}/{feature} {said}" in message

    def lists(examples, client):
        del examples[client][feature]
        made = examples[client].create_dataset(feature, (2,), dtype=strings)
        made[0] = [1, 2]

    message, client = hdf5_fault(name, tmp_path / "lists", monkeypatch, lists, part)
    assert f"{client}/{feature} holds lists [2]" in message
    if len(features(name)) > 1:

        def longer(examples, client):
            old = examples[client][feature][()]
            del examples[client][feature]
            examples[client][feature] = np.concatenate([old, old])

        message, client = hdf5_fault(name, tmp_path / "longer", monkeypatch, longer, part)
        assert f"{client} has features of different lengths" in message


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", [name for name in HDF5 if data_sources[name].same_clients])
def test_a_client_of_one_hdf5_file_that_is_not_in_the_other(name, part, tmp_path, monkeypatch):
    message, client = hdf5_fault(name, tmp_path, monkeypatch, lambda examples, client: examples.pop(client), part)
    assert f"{client} is missing" in message


JSON = sorted(name for name in SOURCES if name.startswith("leaf_") or name == "sent140")


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", JSON)
def test_leafs_users_with_other_keys_types_or_lengths(name, part, tmp_path, monkeypatch):
    (path,) = [path for path in written(name, tmp_path) if path.parent.name == part]
    content = path.read_text()
    source = made(name, tmp_path, monkeypatch)

    def said(change):
        plain = json.loads(content)
        user = plain["users"][0]
        plain = change(plain, plain["user_data"][user]) or plain
        path.write_text(json.dumps(plain))
        message, _ = refused(source, tmp_path)
        assert message is not None
        assert message.startswith(f"{path}: ")
        assert source.remedy(tmp_path) in message
        return message.replace(f"user '{user}'", "USER")

    assert "'users' is missing" in said(lambda plain, own: plain.pop("users") and None)
    assert "'user_data' is missing or no dict" in said(lambda plain, own: plain.update(user_data=[]))
    assert "'user_data' of USER is missing" in said(lambda plain, own: plain["user_data"].pop(plain["users"][0]) and None)
    assert "has no lists x and y" in said(lambda plain, own: own.pop("y") and None)
    assert "USER has" in said(lambda plain, own: own["x"].pop() and None)
    assert "num_samples says" in said(lambda plain, own: plain["num_samples"].__setitem__(0, 99))
    for value in (None, {}, [], [[1, 2], [3, 4]], "ab", 1e99, -1, 0.5, 10**30, True if name == "leaf_shakespeare" else "y"):
        assert ": USER" in said(lambda plain, own, value=value: own["y"].__setitem__(0, value)), value
    for value in (None, {}, [], [["a"]], 7, [None] * 784, [1e99] * 784, [10**400] * 784 if name != "sent140" else 1.5):
        assert ": USER" in said(lambda plain, own, value=value: own["x"].__setitem__(0, value)), value
    path.write_text("[" * 100_000)
    assert "cannot be read as JSON" in refused(source, tmp_path)[0]
    path.write_bytes(b'{"users": ["\xff"]}')
    assert "cannot be read as JSON" in refused(source, tmp_path)[0]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "emnist"])
def test_idx_files_of_another_type_shape_or_number(name, tmp_path, monkeypatch):
    files = written(name, tmp_path)
    source = made(name, tmp_path, monkeypatch)
    images, labels = (next(path for path in files if f"{what}-idx" in path.name) for what in ("images", "labels"))
    kept = images.read_bytes(), labels.read_bytes()
    for path, array, said in [
        (images, np.zeros((6, 28, 28), np.float32), "holds float32"),
        (images, np.zeros((6, 784), np.uint8), r"holds uint8 \[6, 784\]"),
        (images, np.zeros((6, 32, 32), np.uint8), r"holds uint8 \[6, 32, 32\]"),
        (images, np.zeros((0, 28, 28), np.uint8), r"holds uint8 \[0, 28, 28\]"),
        (labels, np.zeros(5, np.uint8), "not one label from 0 to 9"),
        (labels, np.zeros(6, np.int32), "not one label from 0 to 9"),
        (labels, np.full(6, 10, np.uint8), "not one label from 0 to 9"),
    ]:
        path.write_bytes(official.idx(array))
        message, _ = refused(source, tmp_path)
        assert message is not None
        assert message.startswith(f"{path}: ")
        assert re.search(said, message)
        images.write_bytes(kept[0])
        labels.write_bytes(kept[1])


@pytest.mark.parametrize("name", ["adult", "lending_club"])
def test_columns_of_a_table_that_are_missing_or_hold_something_else(name, tmp_path, monkeypatch):
    (path,) = written(name, tmp_path)
    source = made(name, tmp_path, monkeypatch)
    header, first, *rest = path.read_text().splitlines(keepends=True)
    number = "age" if name == "adult" else "loan_amnt"
    place = header.split(",").index(number)

    def with_value(value):
        row = rest[0].split(",")
        row[place] = value
        return "".join([header, first, ",".join(row), *rest[1:]])

    for content, said in {
        header.replace(number, "other") + first + "".join(rest): f"has no column {number}",
        header: "has no rows",
        with_value("many"): f"line 3: {number} is 'many', which is no number",
        with_value("inf"): f"line 3: {number} is 'inf', which is no finite number",
        with_value("1,2"): "line 3: has",
        with_value("é").encode().decode("latin-1"): f"line 3: {number} is",
        with_value('"'): "fields, and the header has",
    }.items():
        path.write_text(content)
        message, _ = refused(source, tmp_path)
        assert message is not None
        assert message.startswith(str(path)), message
        assert said in message
    path.write_bytes(b"\xff\xfe" + header.encode("utf-16-le"))
    assert "cannot be read" in refused(source, tmp_path)[0] or "truncated" in refused(source, tmp_path)[0]
    path.unlink()
    path.mkdir()
    assert refused(source, tmp_path)[0] is not None


def test_photos_with_labels_that_are_none(tmp_path, monkeypatch):
    files = written("nus_wide", tmp_path)
    source = made("nus_wide", tmp_path, monkeypatch)
    label = next(path for path in files if path.name == "Labels_person_Train.txt")
    kept = label.read_text()
    for content, said in {
        kept.replace("1", "2", 1): "is not a label, 0 or 1, in each line",
        kept.replace("\n", " 0\n"): "is not a label, 0 or 1, in each line",
        kept.replace("1", "nan", 1): "no finite number",
        kept.replace("1", "x", 1): "no table of numbers",
        kept[:-2]: "of 29 photos, and other Train files of 30",
        "\n\n": "no table of numbers",
    }.items():
        label.write_text(content)
        message, _ = refused(source, tmp_path)
        assert message is not None
        assert message.startswith(str(label))
        assert said in message
        assert "NUS-WIDE is at" in message


@pytest.mark.parametrize("name", ["digits", "mnist5k"])
def test_packaged_images_that_are_none(name, tmp_path, monkeypatch):
    (path,) = written(name, tmp_path)
    source = made(name, tmp_path, monkeypatch)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    faulty = {"0,0,0,0,10\n": "label 10", "0,0,0,1\n": "columns", "0,0,0,999,1\n": "999", "0,0,0,-1,1\n": "-1"}
    for line, said in faulty.items():
        path.write_bytes(gzip.compress("".join([*lines[:-1], line]).encode()))
        message, _ = refused(source, tmp_path)
        assert re.search(f"^{path} is damaged: .*{said}.*run: pip install --force-reinstall", message)
    if name == "mnist5k":
        path.write_bytes(gzip.compress("".join(lines[:1000]).encode()))
        assert "has 1000 images, and 1000 are held out" in refused(source, tmp_path)[0]


@pytest.mark.parametrize("name", ["credit", "lending_club_sample"])
def test_frames_of_r_without_a_column(name, tmp_path, monkeypatch):
    pytest.importorskip("rdata")
    label, texts = {"credit": ("Status", sources.CREDIT), "lending_club_sample": ("Class", sources.LOANS)}[name]
    frame = {"credit": "credit_data", "lending_club_sample": "lending_club"}[name]
    source = made(name, tmp_path, monkeypatch)
    sources.frame(frame, name, "Other", texts)(tmp_path)
    with pytest.raises(DataError, match=f"^{tmp_path}/modeldata/Rdata.rdb: {frame} has no column {label}; get r-cran-modeldata"):
        source.load(0, tmp_path)
    shutil.rmtree(tmp_path / "modeldata")
    sources.frame("other", name, label, texts)(tmp_path)
    with pytest.raises(DataError, match=f"^{tmp_path}/modeldata/Rdata.rdx: {frame} cannot be read"):
        source.load(0, tmp_path)


def test_archives_are_unpacked_in_one_place():
    """`download.unpack` checks where members would go (test_download); zip files would need the same."""
    words = ("extractall", "unpack_archive", ".extract(", "tarfile")
    modules = Path(fedml_api.data.__file__).parent.rglob("*.py")
    found = {path.name for path in modules if any(word in path.read_text() for word in words)}
    assert found == {"download.py"}, "unpack with fedml_api.data.download.unpack"
    assert "zipfile" not in Path(download.__file__).read_text(), "add a test of path traversal for zip files to test_download.py"

import dataclasses
import json

import pytest
import torch

from fedml_api.data import Reddit, StackOverflowLr, StackOverflowNwp
from fedml_api.data.examine import overlap
from fedml_core.errors import DataError
from tests.fedml_api.data import official


def comment(text, steps=4):
    """A comment as LEAF's script cuts it, and its label."""
    words = text.split()
    halves = (["<BOS>", *words, "<EOS>"], [*words, "<EOS>", "<PAD>"])
    padded = [half + ["<PAD>"] * (-len(half) % steps) for half in halves]
    x, targets = ([half[k : k + steps] for k in range(0, len(half), steps)] for half in padded)
    return x, {"target_tokens": targets, "count_tokens": [[1.0] * steps] * len(x), "subreddit": "r", "score": 3}


def user(*comments):
    x, y = zip(*map(comment, comments), strict=True)
    return {"x": list(x), "y": list(y)}


TRAIN = {"2": user("so it is so"), "1": user("it is", "now it is it <b>")}
TEST = {"2": user("is it odd"), "1": user("so")}
VAL = {"2": user("now"), "1": user("it")}


@pytest.fixture
def here(tmp_path):
    official.leaf(tmp_path / "reddit", (TRAIN, TEST))
    official.leaf(tmp_path / "val", (TRAIN, VAL))
    (tmp_path / "val" / "test").rename(tmp_path / "reddit" / "val")
    return tmp_path


def edit(path, change):
    (file,) = path.glob("*.json")
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


def test_an_example_is_a_sequence_of_a_comment(here):
    # As LEAF writes them: the numbers are those of all three parts.
    for part in ("train", "val", "test"):
        edit(here / "reddit" / part, lambda content: content.update(num_samples=[9, 9]))
    data = Reddit(words=4, steps=4).load(0, here)
    assert (data.client_ids, data.classes, data.special) == (("1", "2"), 8, (-3, -2, -1))
    # it 4, is 3, so 2, then of those with one <b>; others are 5, 6 begins, 7 ends.
    batch = data.train("1").all()
    assert batch["x"].tolist() == [[6, 1, 2, 7], [6, 5, 1, 2], [1, 4, 7, 0]]
    assert batch["y"].tolist() == [[1, 2, 7, 0], [5, 1, 2, 1], [4, 7, 0, 0]]
    assert batch["x"].dtype == batch["y"].dtype == torch.int64
    assert data.test("2").all()["y"].tolist() == [[2, 1, 5, 7]]  # nothing comes after the end
    assert dict(data.sizes) == {"1": 3, "2": 2}
    assert len(data.global_test) == 2
    assert overlap(data) == 0
    assert Reddit(words=4, steps=4, validation=True).load(0, here).test("2").all()["y"].tolist() == [[5, 7, 0, 0]]


FAULTS = {
    "no targets": (lambda own: own["y"][0].pop("target_tokens"), "target_tokens"),
    "fewer targets": (lambda own: own["y"][0]["target_tokens"].pop(), "as many target_tokens"),
    "a text": (lambda own: own.update(x=["so it is so"]), "no list of sequences"),
    "a label": (lambda own: own.update(y=[3]), "no list of sequences"),
    "longer": (lambda own: own["x"][0][0].append("so"), "no list of 4 words"),
    "a number": (lambda own: own["x"][0][0].__setitem__(0, 3), "no list of 4 words: [3"),
    "fewer comments": (lambda own: own["x"].pop(), "has 0 x and 1 y"),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files(here, part, fault):
    change, said = FAULTS[fault]
    file = edit(here / "reddit" / part, lambda content: change(content["user_data"]["2"]))
    with pytest.raises(DataError) as caught:
        Reddit(words=4, steps=4).load(0, here)
    for words in (str(file), "user '2'", said, "put the folders train and test"):
        assert words in str(caught.value)


def test_too_few_words(here):
    with pytest.raises(DataError, match=r"have 5 different words, and data\.words = 10,000: ask for fewer"):
        Reddit(steps=4).load(0, here)
    assert Reddit(words=5, steps=4).load(0, here).classes == 9


@pytest.mark.parametrize("source", [StackOverflowNwp(words=30, packed=False), StackOverflowLr(words=30, tags=6)], ids=["nwp", "lr"])
def test_stack_overflow_has_users_for_validation(tmp_path, source):
    pytest.importorskip("h5py")
    official.stackoverflow(tmp_path)
    held_out = tmp_path / "stackoverflow" / "stackoverflow_held_out.h5"
    tuned = dataclasses.replace(source, validation=True)
    with pytest.raises(DataError, match=r"held_out\.h5: not there; put stackoverflow_train\.h5 and stackoverflow_held_out\.h5"):
        tuned.load(0, tmp_path)
    official.h5_file(held_out, {"7": {"tokens": ["w3 w4"], "title": ["w5"], "tags": ["t1"]}})
    data = tuned.load(0, tmp_path)
    assert data.client_ids == source.load(0, tmp_path).client_ids
    assert len(data.global_test) == 1
    assert all(len(data.test(client)) == 0 for client in data.client_ids)

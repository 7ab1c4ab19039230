import pytest
import torch

from fedml_api.data import FedNlp
from fedml_api.data.examine import overlap
from fedml_core.errors import DataError
from tests.fedml_api.data import official, official_text

pytest.importorskip("h5py")
EXAMPLES = [("No good, no", "bad"), ("good é", "fine"), ("so", "bad"), ("no so", "fine"), ("unheard", "bad")]
CLIENTS = [([3, 0], [2]), ([1], [4])]
SOURCE = FedNlp(task="sst_2", words=5, steps=3)


@pytest.fixture
def here(tmp_path):
    official_text.fednlp(tmp_path / "fednlp", "sst_2", {"fine": 0, "bad": 1}, EXAMPLES, CLIENTS)
    return tmp_path


def test_clients_hold_what_the_partition_says(here):
    data = SOURCE.load(0, here)
    assert (data.client_ids, data.classes) == (("0", "1"), 2)
    # Of the training texts: no 3, good 2, and of those with one the first of the alphabet, the comma; others are 4.
    assert data.train("0").all()["x"].tolist() == [[1, 4, 0], [1, 2, 3]]
    assert data.train("0").all()["y"].tolist() == [0, 1]
    assert data.train("1").all()["x"].tolist() == [[2, 4, 0]]
    assert data.test("0").all()["x"].tolist() == [[4, 0, 0]]
    assert data.test("1").all()["y"].tolist() == [1]
    assert data.train("0").all()["x"].dtype == torch.int64
    assert dict(data.sizes) == {"0": 2, "1": 1}
    assert len(data.global_test) == 2
    assert data.label_counts().tolist() == [[1, 1], [1, 0]]
    assert overlap(data) == 0


def replaced(name, value):
    def change(file):
        if name in file:
            del file[name]
        if value is not None:
            file[name] = value

    return change


FAULTS = {
    "a text is missing": ("data", replaced("X/3", None), "/X/3 and /Y/3 are no text and label"),
    "another label": ("data", replaced("Y/3", "odd"), "/X/3 and /Y/3 are no text and label ('odd')"),
    "no text": ("data", replaced("X/3", [1.0, 2.0]), "are no text and label (no text but array"),
    "no attributes": ("data", replaced("attributes", None), "/attributes is no JSON with the sst_2's label_vocab"),
    "no JSON": ("data", replaced("attributes", "{"), "/attributes is no JSON"),
    "no vocabulary": ("data", replaced("attributes", "{}"), "/attributes is no JSON"),
    "three labels": ("data", replaced("attributes", '{"label_vocab": {"a": 0, "b": 1, "c": 2}}'), "not the numbers 0 to 1"),
    "no half": ("partition", replaced("uniform/partition_data/1/test", None), "/uniform is no partition"),
    "floats": ("partition", replaced("uniform/partition_data/1/test", [4.0]), "indices of float64 [1]"),
    "a client": ("partition", replaced("uniform/partition_data/1", None), "has 1 clients; n_clients says 2"),
    "twice": ("partition", replaced("uniform/partition_data/1/test", [3]), "has index 3 twice"),
    "beyond": ("partition", replaced("uniform/partition_data/1/test", [5]), "/X/5 and /Y/5 are no text and label"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_files(here, fault):
    which, change, said = FAULTS[fault]
    path = here / "fednlp" / f"sst_2_{which}.h5"
    official.edit_h5(path, change)
    with pytest.raises(DataError) as caught:
        SOURCE.load(0, here)
    for words in (said, "sst_2_", "put sst_2_data.h5 and sst_2_partition.h5 into", "github.com/FedML-AI/FedNLP"):
        assert words in str(caught.value)


def test_another_method_and_files_that_are_no_hdf5(here):
    with pytest.raises(DataError, match=r"no method 'niid'; data\.method is one of uniform"):
        FedNlp(task="sst_2", method="niid").load(0, here)
    path = here / "fednlp" / "sst_2_data.h5"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"sst_2_data\.h5: cannot be read as HDF5"):
        SOURCE.load(0, here)
    path.unlink()
    with pytest.raises(DataError, match=r"sst_2_data\.h5: not there; put"):
        SOURCE.load(0, here)

"""The private state on a device's disk: which rounds begin with it, and which do not."""

import logging

import pytest
import torch

from fedml_api import Classifier
from fedml_api.distributed.edge import Edge, serve_devices
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import SERVER
from fedml_core.federation import Reply, Setup, Task
from fedml_iot.device import KeepingRunner, federation_of, write_state


class Recall(Task):
    """Tells the server what the client remembers, and has it remember the rounds it has been asked in."""

    def __call__(self, client, shared, own=None):
        before = client.state or []
        return Reply(before, 1.0, {}, [*before, client.round])


@pytest.fixture
def setup(dataset, network):
    return Setup(Classifier(), network, dataset, 0, torch.device("cpu"), identity="config", recipe={})


@pytest.fixture
def remembers(setup, tmp_path):
    """What client c0 remembers when a server of some federation asks it in some rounds; each time by a new process."""

    def asked(federation, *rounds):
        return [KeepingRunner(setup, tmp_path, federation)("c0", round, Recall(), None, None, None).value for round in rounds]

    return asked


def test_states_last_until_the_next_federation(remembers, caplog):
    assert remembers("first", 0, 1, 1, 3) == [[], [0], [0], [0, 1]]
    assert not caplog.records
    assert remembers("second", 5, 6) == [[], [5]]
    assert ["is of another run of this name: client c0 begins afresh" in text for text in caplog.messages] == [True]


def test_a_server_that_goes_back_is_told_of(remembers, caplog):
    remembers("first", 1, 4)
    assert remembers("first", 3) == [[1]]
    assert remembers("first", 2) == [[1]]
    assert ["the server went back to round" in text for text in caplog.messages] == [True, True]
    assert remembers("first", 3, 5) == [[1, 2], [1, 2, 3]]
    assert len(caplog.messages) == 2


def test_before_the_first_round_there_is_no_state(remembers):
    remembers("first", 2)
    assert remembers("first", 0, 0, 1) == [[], [], [0]]


def test_a_file_of_an_earlier_version_is_read(remembers, tmp_path, caplog):
    write_state(tmp_path / "c0.state", {"round": 1, "before": [0], "after": [0, 1]})
    assert remembers("first", 1, 2) == [[0], [0, 1]]
    assert not caplog.records


def test_another_run_is_told_once(setup, tmp_path, caplog):
    class Forget(Task):
        def __call__(self, client, shared, own=None):
            return Reply(client.state, 1.0, {})

    write_state(tmp_path / "c0.state", {"federation": "first", "round": 1, "before": None, "after": [1]})
    runner = KeepingRunner(setup, tmp_path, "second")
    with caplog.at_level(logging.WARNING):
        assert [runner("c0", round, Forget(), None, None, None).value for round in (2, 3)] == [None, None]
    assert len(caplog.messages) == 1


def test_a_federation_is_the_same_after_a_resume_and_no_other_is(setup):
    def welcomed(restored):
        """By what a device would know the federation of a server that begins with this, and what that server saves."""
        session = next(sessions := serve_devices(Edge(), loopback_network([SERVER])[SERVER], setup))
        if restored is not None:
            session.restore(restored)
        found = federation_of(session.server.welcome), list(session.save())
        sessions.close()
        return found

    first, saved = welcomed(None)
    assert welcomed(saved) == (first, saved)
    assert welcomed(None)[0] != first
    # A checkpoint and a server of an earlier version, which the configuration has to tell apart.
    assert welcomed([])[0] == federation_of({"recipe": {}, "identity": "config"}) == "config"

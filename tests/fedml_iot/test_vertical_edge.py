"""Vertical learning between real devices: the bits of a simulation, also when a party is killed in the middle of a round."""

import time

import pytest

from tests.fedml_api.test_tables import loans
from tests.fedml_iot.federation import Federation, undisturbed

PARTIES = ["lender", "bureau", "registry"]
CONFIG = {
    "name": "vertical",
    "seed": 3,
    "rounds": 60,
    "clients_per_round": 3,
    "data": {"name": "lending_club", "parties": 3},
    "model": {"name": "vertical_nn", "hidden": 8, "cut": 4},
    "algorithm": {"name": "vertical", "intersection": "plain", "local": {"lr": 0.05, "batch_size": 2}},
    "threads": 1,
    "evaluate_every": 60,
    "checkpoint_every": 1,
}


@pytest.mark.soak
def test_a_party_killed_in_the_middle_is_waited_for(tmp_path, broker, monkeypatch):
    (tmp_path / "data" / "lending_club").mkdir(parents=True)
    loans(tmp_path / "data" / "lending_club" / "loan.csv", 400)
    federation = Federation(tmp_path, broker, CONFIG)
    try:
        assert federation.start("export", "edge.yaml", "data").wait() == 0
        federation.join(*PARTIES)
        server = federation.serve("engine.devices=3", "engine.minimum=3", "engine.deadline=5")
        for round, party in ((5, "bureau"), (12, "lender")):
            federation.wait_for_round(round, server)
            time.sleep(0.05)  # into the next round
            federation.devices[party].kill()
            federation.wait_for_log(server, f"client {party} at {party}")
            federation.join(party)
        found = federation.result(server)
        log = federation.log(server)
    finally:
        federation.stop()
    monkeypatch.chdir(tmp_path)
    assert found["sha256"] == undisturbed(federation)
    assert log.count("trying the round again") >= 2

"""Split learning with devices that keep their layers and labels; `test_dialogue_kills.py` has those that hand them on."""

import shutil

import pytest

from tests.fedml_iot.federation import CONFIG, DEVICES, Federation, reference

VICTIM = """
import os, signal
from fedml_api import cli
from fedml_api.algorithms.split import SplitSGD

talk = SplitSGD.talk

def talks(self, client, shared, own=None):
    saying, answer = talk(self, client, shared, own), None
    for letter in range(1000):
        if (client.round, letter) == (1, 12):
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            answer = yield saying.send(answer)
        except StopIteration as end:
            return end.value

SplitSGD.talk = talks
raise SystemExit(cli.main())
"""


@pytest.mark.soak
def test_a_device_that_dies_in_its_turn_has_the_layers_it_keeps_from_before_it(tmp_path, broker, exported):
    algorithm = {"name": "split", "cut": 3, "head": 1, "handover": False, "local": {"lr": 0.05, "batch_size": 16}}
    changes = {"rounds": 3, "clients_per_round": 4, "algorithm": algorithm, "evaluate_every": 1}
    federation = Federation(tmp_path, broker, CONFIG | changes)
    shutil.copytree(exported, tmp_path / "data")
    others, victim = [name for name in DEVICES if name != "1"], "1"
    try:
        federation.join(*others)
        data = ["--data", f"data/{victim}", "--state", f"state/{victim}"]
        device = federation.start("join", f"{broker.url}/default", "--name", victim, *data, code=VICTIM)
        server = federation.serve("engine.devices=4", "engine.deadline=60")
        assert device.wait(60) == -9
        federation.join(victim)
        found, rows = federation.result(server), federation.rows()
        assert [row.get("missing", []) for row in rows] == [[], [], [victim], []]
        assert found["sha256"] == reference(federation, rows)
    finally:
        federation.stop()

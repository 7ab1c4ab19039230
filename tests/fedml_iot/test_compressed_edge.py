"""Devices as processes that send few coordinates: what was not sent stays on their disks, in rounds and asynchronously."""

import pytest
import yaml

from tests.fedml_iot.federation import CONFIG, DEVICES, undisturbed

LOCAL = CONFIG["algorithm"]["local"]
FEDAVG = {"name": "fedavg", "local": LOCAL}
FEDBUFF = {"name": "fedbuff", "buffer": 2, "durations": "examples", "local": LOCAL}


@pytest.mark.parametrize("inner", [FEDAVG, pytest.param(FEDBUFF, marks=pytest.mark.soak)], ids=lambda inner: inner["name"])
def test_devices_train_the_model_of_the_simulation_on_few_coordinates(federation, inner):
    path = federation.folder / "edge.yaml"
    compressed = {"name": "compressed", "compressor": {"name": "topk", "fraction": 0.05}, "algorithm": inner}
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"rounds": 4, "algorithm": compressed}))
    federation.join(*DEVICES)
    server = federation.serve("engine.devices=4")
    assert federation.result(server)["sha256"] == undisturbed(federation)
    assert federation.rows()[-1]["train_bits_per_parameter"] < 3
    kept = [device for device in DEVICES if list((federation.folder / "state" / device).rglob("*.state"))]
    assert kept == DEVICES

"""Who is not let in, by the broker or by the server, ends soon and is told why and what to do."""

import subprocess
import time
from pathlib import Path

import pytest

from fedml_core.errors import ConfigError
from fedml_iot.device import make_setup
from tests.brokers import Mosquitto, certificates
from tests.fedml_iot.federation import DEVICES, Federation, Process, undisturbed

# Seconds on a busy machine.
SOON = 20


def refused(federation: Federation, *processes: Process) -> list[str]:
    """What commands that must fail soon say about it: one message each, without a traceback."""
    end = time.monotonic() + SOON
    messages = []
    for process in processes:
        assert process.wait(end - time.monotonic()) in (1, 2)
        text = federation.log(process)
        assert "Traceback" not in text
        messages += [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(messages) == len(processes)
    return messages


def all_refused(federation: Federation, cases: dict[str, list[str]]) -> None:
    """A device and a server that reach for a broker at each of these URLs are refused, and told all the remedies of it."""
    started = []
    for url in cases:
        address, _, options = url.partition("?")
        device = federation.start("join", f"{address}/default?{options}", "--name", "0", "--data", "data/0")
        started.append((device, federation.start("serve", "edge.yaml", f"engine.broker={url}")))
    for processes, (url, remedies) in zip(started, cases.items(), strict=True):
        for message in refused(federation, *processes):
            assert [remedy for remedy in remedies if remedy not in message] == [], (url, message)


def test_wrong_user_or_password(federation: Federation, tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("device:secret\n")
    subprocess.run(["mosquitto_passwd", "-U", tmp_path / "passwords"], check=True)
    config = ["listener {port} 127.0.0.1", f"password_file {tmp_path / 'passwords'}", "user root"]
    who = {"device:wrong@": "user 'device'", "nobody:secret@": "user 'nobody'", "": "whoever gives no user and password"}
    with Mosquitto(tmp_path, config) as broker:
        cases = {f"mqtt://{user}127.0.0.1:{broker.port}": [f"refuses {name}", "check user, password"] for user, name in who.items()}
        all_refused(federation, cases)
    assert "wrong" not in federation.logs("*")


def test_certificates_that_are_not_trusted(federation: Federation, tmp_path: Path) -> None:
    (tmp_path / "pem").mkdir()
    pem = certificates(tmp_path / "pem")
    server = [f"cafile {pem['ca.pem']}", f"certfile {pem['server.pem']}", f"keyfile {pem['server.key']}"]
    trust = ["not trusted", "certificate authority (ca=FILE)"]
    with Mosquitto(tmp_path, ["listener {port} 127.0.0.1", *server, "require_certificate true", "user root"]) as broker:
        url = f"mqtts://127.0.0.1:{broker.port}"
        cases = {
            f"{url}?ca={pem['stranger.pem']}": trust,
            url: trust,  # the system's authorities
            f"{url}?ca={pem['ca.pem']}": ["client certificate (cert=FILE, key=FILE)"],
            f"{url}?ca={pem['ca.pem']}&cert={pem['stranger.pem']}&key={pem['stranger.key']}": [
                "may not trust",
                "stranger.pem",
                "the authority that the broker trusts",
            ],
        }
        all_refused(federation, cases)


# A device of a later version of the conversation.
LATER = "import fedml_api.distributed.worker as it; it.PROTOCOL = 99; from fedml_api.cli import main; exit(main())"


def test_devices_that_do_not_belong(federation):
    """The server waits for one more device, so that it is there to refuse whoever is not that one; then the run takes place."""
    federation.join(*DEVICES[:3])
    server = federation.serve("engine.devices=4")
    federation.wait_for_log(server, "3 of 4 devices")
    (federation.folder / "gateway").mkdir()
    (federation.folder / "gateway" / "1").symlink_to(federation.folder / "data" / "3")
    url, data = f"{federation.url}/default", ("--data", "data/3")
    remedies = {
        "is taken": (federation.start("join", url, "--name", "1", *data), "Give each process its own name"),
        "client 1 is here already": (
            federation.start("join", url, "--name", "west", "--data", "gateway"),
            "give each device its own name",
        ),
        "its configuration is 000000000000": (
            federation.start("join", url, "--name", "other", "--identity", "0" * 64, *data),
            "start both with the same one",
        ),
        "it speaks protocol 99": (
            federation.start("join", url, "--name", "later", *data, code=LATER),
            "install the same version of fedml on both",
        ),
    }
    messages = refused(federation, *(process for process, _ in remedies.values()))
    at_server = federation.log(server)
    for message, (reason, (_, remedy)) in zip(messages, remedies.items(), strict=True):
        assert reason in message
        assert remedy in message
        if reason == "is taken":
            # Processes of one name settle that between them, at the broker.
            assert "another process asked for the name '1'" in federation.log(federation.devices["1"])
        else:
            (line,) = [line for line in at_server.splitlines() if reason in line]
            assert "refused" in line
            assert remedy in line
    federation.join("3")
    assert federation.result(server)["sha256"] == undisturbed(federation)


@pytest.mark.parametrize(
    "welcome", [None, {}, {"recipe": {"model": "lr"}}, {"recipe": {"model": "lr", "shape": 3, "classes": 2, "seed": 0}}]
)
def test_a_welcome_without_a_recipe_is_told(welcome):
    with pytest.raises(ConfigError, match="install the server's version"):
        make_setup(welcome, None)


def test_a_recipe_for_a_model_of_another_version_is_told():
    recipe = {"model": "cnn9", "shape": [4], "classes": 2, "seed": 0}
    with pytest.raises(ConfigError, match=r"unknown model 'cnn9'(.|\n)*install the server's version"):
        make_setup({"recipe": recipe}, None)

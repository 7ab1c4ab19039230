"""kill -9 in the middle of a dialogue: of a device between two batches of its turn, and of the server that listens to it."""

import os
import signal
import time

import pytest

from tests.fedml_iot.federation import CONFIG, Federation, reference, undisturbed

# Three devices of four take part in a round; a turn is 45 letters in both directions.
SPLIT = CONFIG | {"rounds": 3, "algorithm": {"name": "split", "cut": 2, "local": {"batch_size": 8}}, "evaluate_every": 1}


def dying(letters: int) -> str:
    """A `fedml` that is killed, as if from outside, before it writes this letter."""
    return (
        "import os, signal, sys\n"
        "from fedml_api.distributed import talking\n"
        "send, count = talking._Open._send, 0\n"
        "def dies(*arguments):\n"
        "    global count\n"
        "    count += 1\n"
        f"    if count == {letters}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    send(*arguments)\n"
        "talking._Open._send = dies\n"
        "from fedml_api.cli import main\n"
        "sys.exit(main())"
    )


@pytest.fixture
def federation(tmp_path, broker, exported):
    made = Federation(tmp_path, broker, SPLIT)
    (tmp_path / "data").symlink_to(exported)
    yield made
    made.stop()


def test_the_next_device_goes_on_from_before_the_turn_of_one_that_is_killed(federation):
    federation.join("0", "1", "2")
    data = ["--data", "data/3", "--state", "state/3"]
    doomed = federation.start("join", f"{federation.url}/default", "--name", "3", *data, code=dying(60))
    server = federation.serve("engine.devices=4")
    assert doomed.wait(60) == -signal.SIGKILL
    federation.join("3")
    found, rows = federation.result(server), federation.rows()
    assert [row["missing"] for row in rows if "missing" in row] == [["3"]]
    assert "client 3 at 3: it is gone" in federation.log(server)
    assert found["sha256"] == reference(federation, rows)


def test_a_server_killed_in_the_middle_of_a_turn_goes_on_as_if_it_had_not_been(federation):
    federation.join("0", "1", "2", "3")
    server = federation.serve("engine.devices=4")
    federation.wait_for_round(1, server)
    time.sleep(0.1)
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    before = len(federation.rows())
    found = federation.result(federation.resume())
    assert before < len(federation.rows()) == SPLIT["rounds"] + 1
    assert not any("missing" in row for row in federation.rows())
    assert found["sha256"] == undisturbed(federation)

"""The MPI backend, among the processes of a real mpirun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mpi import mpi_or_skip

ROOT = Path(__file__).parents[2]
PROLOGUE = """
import os, sys, threading, time, torch
from fedml_core import tree
from fedml_core.communication.codec import Limits
from fedml_core.communication.message import Message
from fedml_core.communication.mpi import MpiComManager
from fedml_core.errors import CommunicationError
torch.set_num_threads(1)
def say(*words):  # one write, so that ranks do not mix their lines
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""


def start(ranks: int, program: str) -> subprocess.Popen[str]:
    command, environment = mpi_or_skip(ranks, [sys.executable, "-c", PROLOGUE + program])
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def run(ranks: int, program: str) -> list[str]:
    """The lines that the ranks printed, sorted; they must all end normally, and print nothing to stderr."""
    process = start(ranks, program)
    try:
        output, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, errors) == (0, "")
    return sorted(output.splitlines())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_all_pairs_exchange_messages_of_all_sizes_in_order():
    program = """
com = MpiComManager()
everybody = [com.name, *com.peers]
def payload(sender, i):
    sizes = [0, 1, 10, 1000, 5_000, 20_000, 300_000, 1_300_000]
    content = [torch.arange(sizes[i % 8] + k, dtype=torch.int32) * (k + 1) + i for k in range(3)]
    return {"i": i, "content": content, "digest": tree.digest(content)}
def send_all():
    for i in range(24):
        for peer in everybody:
            com.send(Message("data", com.name, peer, payload(com.name, i)))
sender = threading.Thread(target=send_all)
sender.start()
got = {name: [] for name in everybody}
for _ in range(24 * len(everybody)):
    message = com.receive(60)
    while message.type == "gone":  # a rank that has all it wants may leave before this one has
        message = com.receive(60)
    assert message.receiver == com.name
    assert tree.digest(message.payload["content"]) == message.payload["digest"]
    got[message.sender].append(message.payload["i"])
assert all(numbers == list(range(24)) for numbers in got.values()), got
extra = com.receive(0.01)
assert extra is None or extra.type == "gone", extra
sender.join()
com.close()
com.close()
try:
    com.send(Message("late", com.name, com.name))
except CommunicationError as error:
    say(error)
"""
    assert run(3, program) == [f"{name} has closed its door; message 'late' is not sent" for name in ("rank-1", "rank-2", "server")]


def test_a_big_message_many_in_flight_and_what_is_left_unread_at_the_end():
    program = """
with MpiComManager() as com:
    if com.name == "server":
        model = {"w": torch.arange(12_500_000, dtype=torch.int32).view(torch.float32), "b": torch.ones(7, dtype=torch.bfloat16)}
        com.send(Message("model", com.name, "rank-1", model))
        model["w"].zero_()
        for i in range(500):
            com.send(Message("small", com.name, "rank-1", i))
        com.send(Message("model", com.name, "rank-1", model))
        com.send(Message("unread", com.name, "rank-1", model))
    else:
        time.sleep(0.3)
        model = com.receive(60).payload
        assert torch.equal(model["w"].view(torch.int32), torch.arange(12_500_000, dtype=torch.int32))
        assert model["b"].dtype == torch.bfloat16 and model["b"].tolist() == [1.0] * 7
        assert [com.receive(60).payload for _ in range(500)] == list(range(500))
        assert not com.receive(60).payload["w"].any()
        assert model["w"].view(torch.int32)[-1] == 12_499_999, "memory that is in use was given to the next message"
        say("done")
"""
    assert run(2, program) == ["done"]


def test_a_message_arrives_while_the_receiver_computes():
    """The sender of a long message need not wait for a receiver that is training, not even for one that never leaves Python."""
    program = """
com = MpiComManager()
com.send(Message("ready", com.name, com.peers[0]))
com.receive(60)
start = time.perf_counter()
if com.name == "server":
    com.send(Message("model", com.name, "rank-1", torch.zeros(2_000_000)))
    say(time.perf_counter() - start < 1.0)
else:
    while time.perf_counter() - start < 2.0:
        pass
    assert com.receive(0) is not None
com.close()
"""
    assert run(2, program) == ["True"]


def test_what_is_posted_goes_while_the_sender_is_doing_something_else():
    program = """
with MpiComManager() as com:
    if com.name == "server":
        com.receive(60)
        start = time.perf_counter()
        com.post(Message("model", com.name, "rank-1", torch.arange(2_000_000)))  # of which only MPI holds the memory now
        say(time.perf_counter() - start < 0.5)
        time.sleep(2)
    else:
        com.send(Message("ready", com.name, "server"))
        with com._lock:  # nobody in this process can receive
            time.sleep(1)
        assert torch.equal(com.receive(60).payload, torch.arange(2_000_000))
"""
    assert run(2, program) == ["True"]


def test_an_idle_worker_uses_little_of_a_core():
    program = """
with MpiComManager() as com:
    com.receive(0.3)
    start, cpu = time.perf_counter(), time.process_time()
    com.receive(1)
    waiting = (time.process_time() - cpu) / (time.perf_counter() - start)
    start, cpu = time.perf_counter(), time.process_time()
    time.sleep(1)
    say(waiting < 0.05, (time.process_time() - cpu) / (time.perf_counter() - start) < 0.05)
"""
    assert run(2, program) == ["True True"] * 2


@pytest.mark.parametrize("moment", ["waiting", "computing", "sending"])
def test_when_a_rank_is_killed_all_are_gone_and_it_is_named(moment):
    program = f"""
com = MpiComManager()
say(os.getpid(), com.name)
while True:
    if {moment!r} == "waiting":
        com.receive()
    elif {moment!r} == "computing":
        torch.ones(500, 500) @ torch.ones(500, 500)
    else:
        for peer in com.peers:
            com.send(Message("model", com.name, peer, torch.ones(1_000_000)))
        while com.receive(0) is not None:
            pass
"""
    process = start(3, program)
    try:
        pids = {name: int(pid) for pid, name in (process.stdout.readline().split() for _ in range(3))}
        time.sleep(0.5)
        os.kill(pids["rank-1"], signal.SIGKILL)
        killed = time.monotonic()
        _, errors = process.communicate(timeout=30)
        assert time.monotonic() - killed < 10
        assert process.returncode != 0
        assert "process rank 1" in errors
        assert "signal 9" in errors
        assert not any(alive(pid) for pid in pids.values())
    finally:
        process.kill()


def test_when_a_rank_leaves_with_an_exception_the_others_hear_of_it():
    program = """
com = MpiComManager()
if com.name == "rank-1":
    raise ValueError("no data here")
message = com.receive(60)
say(com.name, "hears that", message.sender, "is", message.type)
"""
    process = start(3, program)
    output, errors = process.communicate(timeout=60)
    assert sorted(output.splitlines()) == ["rank-2 hears that rank-1 is gone", "server hears that rank-1 is gone"]
    assert process.returncode != 0
    assert "ValueError: no data here" in errors


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_message_beyond_the_limits_of_the_receiver_ends_the_job(size):
    program = f"""
limited = os.environ["OMPI_COMM_WORLD_RANK"] == "1"
com = MpiComManager(limits=Limits(total=100 if limited else 1 << 30))
if com.name == "server":
    com.send(Message("model", com.name, "rank-1", torch.ones({size})))
com.receive(60)
"""
    process = start(2, program)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "is more than Limits.total = 100" in errors


def test_the_sender_is_told_of_the_limits_and_of_unknown_receivers():
    program = """
com = MpiComManager(limits=Limits(total=1000))
for message in (Message("model", com.name, com.peers[0], torch.ones(1000)), Message("model", com.name, "rank-7")):
    try:
        com.send(message)
    except CommunicationError as error:
        say(error)
"""
    said = run(2, program)
    assert sum("is more than Limits.total = 1000" in line for line in said) == 2
    assert sum(line == "unknown worker 'rank-7': did you mean 'rank-1'? Allowed: rank-1, server" for line in said) == 2


def test_token_ring_of_ranks():
    command, environment = mpi_or_skip(4, [sys.executable, str(ROOT / "examples" / "token_ring.py"), "mpi"])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "the token went 3 times round rank-1, rank-2, rank-3, server: 12 hops\n"


def test_without_mpi4py_the_remedy_is_named():
    code = """
import sys
sys.modules["mpi4py"] = None
from fedml_core.communication.mpi import MpiComManager
MpiComManager()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "MPI cannot be used" in done.stderr
    assert "pip install" in done.stderr

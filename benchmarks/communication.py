"""Cost of MPI through our ComManager against raw mpi4py `Send` and `Recv`, between two ranks on this machine.

    python -m benchmarks.communication

A model of torch tensors goes to and fro; half of the round trip is the time of one message. Raw sends the same number of bytes from
one torch tensor, and receives them into another that is used again and again: no encoding, no structure, no new memory. Both run
in the same two processes, taking turns, and medians are compared. Then the processor time of a rank that waits is measured.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from fedml_core.communication import codec
from fedml_core.communication.launch import mpirun
from fedml_core.communication.message import SERVER, Message
from fedml_core.communication.mpi import MpiComManager
from fedml_core.tree import Tree

IDLE_SECONDS = 3.0


@dataclass(frozen=True)
class Row:
    """A line of the table; `measured` is to be at most `goal`, in the unit that `what` names."""

    what: str
    measured: float
    goal: float
    ours_ms: float | None = None
    raw_ms: float | None = None


def model(elements: int) -> Tree:
    """The shapes of a convolutional network: most elements in one layer, next to none in the biases."""
    shares = {"conv1": 0.001, "conv2": 0.04, "hidden": 0.95, "out": 0.009}
    weights = {f"{name}.weight": torch.ones(int(share * elements)) for name, share in shares.items()}
    return weights | {f"{name}.bias": torch.ones(100) for name in shares}


def compare(com: MpiComManager, payload: Tree, times: int) -> tuple[float, float]:
    """Median milliseconds of a message with `payload` through `com`, and of its bytes sent raw."""
    from mpi4py import MPI

    world, first, peer = MPI.COMM_WORLD, com.name == SERVER, com.peers[0]
    message = Message("model", com.name, peer, payload)
    size = codec.size(codec.encode(message))
    outgoing, incoming = torch.ones(size, dtype=torch.uint8).numpy(), torch.ones(size, dtype=torch.uint8).numpy()

    def ours() -> None:
        if first:
            com.send(message)
        com.receive()
        if not first:
            com.send(message)

    def raw() -> None:
        if first:
            world.Send(outgoing, 1)
        world.Recv(incoming)
        if not first:
            world.Send(outgoing, 0)

    def milliseconds(way: Callable[[], None]) -> float:
        start = time.perf_counter()
        way()
        return 1000 * (time.perf_counter() - start) / 2

    pairs = [(milliseconds(ours), milliseconds(raw)) for _ in range(times + 3)][3:]
    through_us, directly = zip(*pairs, strict=True)
    return statistics.median(through_us), statistics.median(directly)


def idle_share(wait: Callable[[float], object]) -> float:
    """Percent of a core used while waiting."""
    start = time.process_time()
    wait(IDLE_SECONDS)
    return 100 * (time.process_time() - start) / IDLE_SECONDS


def measure() -> None:
    """What each rank does; the first prints the rows."""
    torch.set_num_threads(1)
    with MpiComManager() as com:
        rows = []
        for what, elements, times, goal in (("50 MB, ours / raw", 12_500_000, 20, 1.5), ("5 MB, ours / raw", 1_250_000, 100, 2.0)):
            ours, raw = compare(com, model(elements), times)
            rows.append(Row(what, ours / raw, goal, ours, raw))
        ours, raw = compare(com, {"round": 1, "loss": 0.5, "weights": torch.ones(100)}, 2000)
        rows.append(Row("small message, microseconds above raw", 1000 * (ours - raw), 200, ours, raw))
        rows.append(Row("waiting rank, percent of a core", idle_share(com.receive), 5))
        rows.append(Row("thread beside a computing rank, percent of a core", idle_share(time.sleep), 5))
        if com.name == SERVER:
            print(json.dumps([asdict(row) for row in rows]))


def table(rows: list[Row]) -> str:
    lines = [f"{'what':<50} {'ours ms':>8} {'raw ms':>8} {'measured':>9} {'goal':>6}"]
    for row in rows:
        ours, raw = (f"{value:8.3f}" if value is not None else " " * 8 for value in (row.ours_ms, row.raw_ms))
        lines.append(f"{row.what:<50} {ours} {raw} {row.measured:9.2f} {row.goal:6.1f}")
    return "\n".join(lines)


def main() -> int:
    command, environment = mpirun(2, [sys.executable, "-m", "benchmarks.communication", "measure"])
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = [Row(**row) for row in json.loads(output)]
    print(table(rows), output, sep="\n", end="")
    return int(any(row.measured > row.goal for row in rows))


if __name__ == "__main__":
    sys.exit(measure() if sys.argv[1:] == ["measure"] else main())

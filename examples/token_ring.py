"""A token goes round all workers: the smallest protocol that `Worker` can speak, on every backend.

python examples/token_ring.py                                   threads of this process
mpirun -n 4 python examples/token_ring.py mpi                   ranks
python examples/token_ring.py mqtt://localhost                  through a broker, e.g. the one of `fedml broker`
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from fedml_core.communication.com_manager import ComManager
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import Message
from fedml_core.worker import Worker

NAMES = ["server", "rank-1", "rank-2", "rank-3"]
LAPS = 3


def connect(backend: str) -> tuple[list[ComManager], list[str]]:
    """The doors of the workers to be run by this process, and the names of all workers in the order of the ring."""
    if backend == "mpi":
        from fedml_core.communication.mpi import MpiComManager

        rank = MpiComManager()
        return [rank], sorted([rank.name, *rank.peers])
    if backend == "loopback":
        return list(loopback_network(NAMES).values()), NAMES
    from fedml_core.communication.mqtt import Broker, MqttComManager

    return [MqttComManager(name, Broker.parse(backend), "token-ring") for name in NAMES], NAMES


def take_part(com: ComManager, ring: list[str]) -> int:
    """Pass the token on until it has gone round `LAPS` times; how often this worker held it."""
    worker, held = Worker(com), 0
    following = ring[(ring.index(com.name) + 1) % len(ring)]

    def on_token(message: Message) -> None:
        nonlocal held
        held += 1
        if com.name == "server" and held == LAPS:
            print(f"the token went {held} times round {', '.join(ring)}: {message.payload['hops']} hops")
            worker.send("finish", following)
        else:
            worker.send("token", following, {"hops": message.payload["hops"] + 1})

    def on_finish(message: Message) -> None:
        if com.name != "server":
            worker.send("finish", following)
        worker.finish()

    worker.register_message_handler("token", on_token)
    worker.register_message_handler("finish", on_finish)
    if com.name == "server":
        worker.send("token", following, {"hops": 1})
    with com:
        worker.run()
    return held


if __name__ == "__main__":
    coms, ring = connect(sys.argv[1] if len(sys.argv) > 1 else "loopback")
    with ThreadPoolExecutor(len(coms)) as threads:
        assert set(threads.map(take_part, coms, [ring] * len(coms))) == {LAPS}

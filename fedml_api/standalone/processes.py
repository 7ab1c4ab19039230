"""Worker processes on this machine, forked so that they share the data, talking through shared memory."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch

from fedml_api.standalone.executor import Executor, States, Work
from fedml_core import errors, tree
from fedml_core.communication.codec import UNLIMITED, decode_tree, encode_tree, size
from fedml_core.errors import FedMLError, RunError
from fedml_core.federation import Aggregator, Reply, Setup, Task, describe, restore
from fedml_core.trainer import ModelState
from fedml_core.tree import Tree

_WORD = struct.Struct("<Q")
# Clients whose replies and private states a worker and this process hold at a time, where they are wanted one by one.
FEW = 16


def can_fork() -> bool:
    """Whether worker processes can be forked here; macOS's libraries do not survive it."""
    return hasattr(os, "fork") and sys.platform != "darwin"


class Processes(Executor):
    """An executor in each of `count` forked processes of one thread.

    Every worker gets a fixed share of a round's clients, about equal in examples, folds them, and hands one accumulator back; the
    accumulators are merged in the order of the workers, so that a run gives the same bits every time. What is sent is encoded as
    between machines, into memory that both sides see.

    Args:
        start: makes a worker's executor, in the worker.
    """

    def __init__(self, count: int, start: Callable[[], Executor], setup: Setup) -> None:
        self.setup = setup
        room = 64 * (1 << 20) + 16 * sum(part.nbytes for part in tree.tensors(ModelState.of(setup.module)))
        self._down = Memory(room)
        self.workers: list[Worker] = []
        for number in range(count):
            self.workers.append(Worker(number, start, self._down, Memory(room)))

    def replies(self, work: Work) -> Iterator[tuple[str, Reply]]:
        together = FEW * len(self.workers)
        for first in range(0, len(work.clients), together):
            part = work.only(work.clients[first : first + together])
            found: dict[str, Reply] = {}
            for answer in self._ask(part, None):
                found |= tree.clone(answer["replies"])
            yield from ((id, found.pop(id)) for id in part.clients)

    def fold(self, work: Work, aggregator: Aggregator) -> tuple[Tree, States]:
        total, states = aggregator.zero(), {}
        for answer in self._ask(work, aggregator):
            total = aggregator.merge(total, tree.clone(answer["folded"]))
            states |= tree.clone(answer["states"])
        return total, states

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        self.workers = []

    def _ask(self, work: Work, aggregator: Aggregator | None) -> list[dict[str, Any]]:
        """Every worker's answer about its share."""
        common = {
            "round": work.round,
            "task": describe(work.task),
            "shared": work.shared,
            "fold": None if aggregator is None else describe(aggregator),
        }
        length = self._down.write(common)
        asked = []
        for worker, clients in zip(self.workers, self.shares(work.clients), strict=True):
            if clients:
                part = {
                    name: {id: of[id] for id in clients if id in of} for name, of in (("own", work.own), ("states", work.states))
                }
                worker.ask(length, {"clients": json.dumps(clients), **part})
                asked.append(worker)
        answers = [worker.answer() for worker in asked]
        for worker, answer in zip(asked, answers, strict=True):
            if "error" in answer:
                kind = getattr(errors, answer["error"], None)
                raise kind(answer["text"]) if kind else RuntimeError(f"in worker process {worker.number}:\n{answer['text']}")
        return answers

    def shares(self, clients: Sequence[str]) -> list[list[str]]:
        """The clients of each worker, in the order of the cohort: the largest first to whoever has the least."""
        load, owner = [0] * len(self.workers), {}
        for id in sorted(clients, key=lambda id: -self.setup.size(id)):
            owner[id] = load.index(min(load))
            load[owner[id]] += self.setup.size(id) + 1
        return [[id for id in clients if owner[id] == number] for number in range(len(self.workers))]


class Memory:
    """Memory that a process and its forks share; only what is written takes room."""

    def __init__(self, room: int) -> None:
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self.map = mmap.mmap(-1, room, flags=flags)

    def write(self, payload: Tree) -> int:
        """Put a tree there; its length in bytes."""
        parts = encode_tree(payload)
        if (length := size(parts)) > len(self.map):
            raise RunError(f"a round sends {length} bytes to worker processes, which share {len(self.map)}: use engine.processes=1")
        end = 0
        for part in parts:
            self.map[end : end + len(part)] = part
            end += len(part)
        return length

    def read(self, length: int) -> Any:
        """What was written last, in place: valid until the next write."""
        return decode_tree(memoryview(self.map)[:length], UNLIMITED)


class Worker:
    """A forked process, and this side's end of the line to it.

    A fork has copies of the ends to all workers before it, whoever's they are, and closes them: a worker ends when its line does.
    """

    _lines: ClassVar[set[socket.socket]] = set()

    def __init__(self, number: int, start: Callable[[], Executor], down: Memory, up: Memory) -> None:
        self.number, self.up = number, up
        self.line, theirs = socket.socketpair()
        self._lines.add(self.line)
        with warnings.catch_warnings():
            # Python warns of forking where there are threads; the child uses none of theirs, and takes no lock they could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            try:
                for line in self._lines:
                    line.close()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                _serve(theirs, number, start, down, up)
            finally:
                os._exit(0)
        theirs.close()

    def ask(self, common: int, part: Tree) -> None:
        message = b"".join(encode_tree(part))
        try:
            self.line.sendall(_WORD.pack(common) + _WORD.pack(len(message)) + message)
        except OSError:
            raise self._dead() from None

    def answer(self) -> dict[str, Any]:
        """What the worker made of what it was asked, or `{"error": ...}`.

        Raises:
            RunError: it died.
        """
        word = _receive(self.line, _WORD.size)
        if word is None:
            raise self._dead()
        answer: dict[str, Any] = self.up.read(_WORD.unpack(word)[0])
        return answer

    def close(self) -> None:
        self._hang_up()
        if self.pid:
            os.waitpid(self.pid, 0)

    def _hang_up(self) -> None:
        self.line.close()
        self._lines.discard(self.line)

    def _dead(self) -> RunError:
        self._hang_up()
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        why = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.waitstatus_to_exitcode(status)}"
        return RunError(
            f"worker process {self.number} died ({why}); signal 9 is often a lack of memory. `fedml resume` goes on from the last "
            "checkpoint; engine.processes=1 needs less memory"
        )


def _receive(line: socket.socket, count: int) -> bytes | None:
    """Exactly so many bytes, or None at the end of the line."""
    found = b""
    while len(found) < count:
        piece = line.recv(min(count - len(found), 1 << 20))
        if not piece:
            return None
        found += piece
    return found


def _serve(line: socket.socket, number: int, start: Callable[[], Executor], down: Memory, up: Memory) -> None:
    """What a worker does until nobody asks any more."""
    torch.set_num_threads(1)
    keep_memory()
    executor = start()
    while (head := _receive(line, 2 * _WORD.size)) is not None:
        common, length = _WORD.unpack(head[: _WORD.size])[0], _WORD.unpack(head[_WORD.size :])[0]
        message = _receive(line, length)
        if message is None:
            return
        _spread(number)
        try:
            answer = _carry_out(executor, down.read(common), decode_tree(message, UNLIMITED))
        except FedMLError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        except Exception:
            answer = {"error": "", "text": traceback.format_exc()}
        line.sendall(_WORD.pack(up.write(answer)))


def _spread(number: int) -> None:
    """Move this process to a core of its own, and let the system move it on.

    Workers that are woken together are often put on one core, and told apart only after milliseconds: half a short round.
    """
    if hasattr(os, "sched_setaffinity"):
        everywhere = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {sorted(everywhere)[number % len(everywhere)]})
        os.sched_setaffinity(0, everywhere)


def _carry_out(executor: Executor, common: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    task = _known(Task, json.dumps(common["task"]))
    work = Work(common["round"], task, common["shared"], json.loads(part["clients"]), part["own"], part["states"])
    if common["fold"] is None:
        return {"replies": dict(executor.replies(work))}
    folded, states = executor.fold(work, _known(Aggregator, json.dumps(common["fold"])))
    return {"folded": folded, "states": states}


@lru_cache(maxsize=64)
def _known(base: type, description: str) -> Any:
    """The task or aggregator of a description, built once: most rounds ask for the same."""
    return restore(base, json.loads(description))


def keep_memory() -> None:
    """Have the allocator keep freed memory: a step asks for the same megabytes again, and fresh pages cost a fault each."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
        mallopt(option, 1 << 30)

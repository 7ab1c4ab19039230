"""Processes that begin with torch and the package imported, for tests that start many.

A fresh Python is busy for seconds before it runs the first line of a command. These are forked off one process that has imported
everything and computed nothing. What they do is theirs alone: they have their own memory and their own process id, they can be
stopped and killed. How a fresh Python finds its way to the command has tests of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
FEDML = "import sys; from fedml_api.cli import main; sys.exit(main())"
# What the commands import, most of it late.
WARM = (
    "fedml_api.algorithms",
    "fedml_api.data.picture",
    "fedml_api.distributed.edge",
    "fedml_api.run.config",
    "fedml_api.run.experiment",
    "fedml_api.run.folder",
    "fedml_api.run.observers",
    "fedml_api.run.plots",
    "fedml_api.standalone",
    "fedml_core.communication.mqtt",
    "fedml_iot.commands",
    "fedml_iot.device",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "rich.console",
    "rich.logging",
    "rich.progress",
    "sklearn.datasets",
)


class Forked:
    """As much of `subprocess.Popen` as tests use: the process that runs `code` as `python -c` would, in `cwd`."""

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        stdout: IO[str] | int,
        stderr: IO[str] | int,
        code: str = FEDML,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._answers, theirs = socket.socketpair()
        descriptors = [out if isinstance(out, int) else out.fileno() for out in (stdout, stderr)]
        order = {"arguments": list(arguments), "cwd": str(cwd), "code": code, "env": dict(os.environ if env is None else env)}
        with theirs:
            socket.send_fds(parent(), [json.dumps(order).encode()], [*descriptors, theirs.fileno()])
        self.args, self.returncode = arguments, None
        self.pid = self._answer()

    def _answer(self) -> int:
        return struct.unpack("i", self._answers.recv(4, socket.MSG_WAITALL))[0]

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            self.returncode = self._answer()
            self._answers.close()
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def parent() -> socket.socket:
    """The door of the process that all others are forked off; it is started when the first is wanted."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
        # SciPy's threads would be lost in a fork.
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def serve(door: socket.socket) -> None:
    for module in WARM:
        importlib.import_module(module)
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        order, descriptors, _, _ = socket.recv_fds(door, 1 << 18, 3)
        if not order:
            return
        if os.fork() == 0:
            door.close()
            watch(json.loads(order), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def watch(order: dict[str, object], out: int, error: int, answers: int) -> None:
    """Start the process, and tell those who wait for it its id and its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if (pid := os.fork()) == 0:
        os.close(answers)
        run(order, out, error)
    os.close(out)
    os.close(error)
    with contextlib.suppress(BrokenPipeError):
        os.write(answers, struct.pack("i", pid))
        os.write(answers, struct.pack("i", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


def run(order: dict[str, object], out: int, error: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, place in ((out, 1), (error, 2)):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.argv = ["-c", *order["arguments"]]
    code = 0
    try:
        exec(compile(order["code"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    # What a Python does at its end, but for taking apart what it has imported: that would copy all of the memory, in a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))

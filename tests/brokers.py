"""Brokers for tests: real mosquitto processes that can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
REASON = "mosquitto is not installed (apt-get install mosquitto)"


def need_mosquitto() -> str:
    """The path of mosquitto. Without one the test is skipped, but fails where CI is set."""
    if MOSQUITTO is None:
        if os.environ.get("CI"):
            pytest.fail(REASON)
        pytest.skip(REASON)
    return MOSQUITTO


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A mosquitto on a free port of this machine, with its default configuration or with the given `config` lines.

    `{port}` in a line stands for the port.
    """

    def __init__(self, folder: Path, config: Sequence[str] = ()) -> None:
        self.program, self.port = need_mosquitto(), free_port()
        self.log = folder / f"mosquitto-{self.port}.log"
        self.command = [self.program, "-p", str(self.port)]
        if config:
            path = folder / f"mosquitto-{self.port}.conf"
            path.write_text("\n".join(config).format(port=self.port) + "\n")
            self.command = [self.program, "-c", str(path)]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and return when it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"mosquitto does not start:\n{self.log.read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """kill -9: nothing is saved, nobody is told."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def __enter__(self) -> Mosquitto:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


def certificates(folder: Path) -> dict[str, Path]:
    """Made by openssl: an authority "ca", certificates of it for "server" (127.0.0.1) and "client", and a "stranger" authority."""
    if shutil.which("openssl") is None:
        if os.environ.get("CI"):
            pytest.fail("openssl is not installed")
        pytest.skip("openssl is not installed")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in ("ca", "stranger"):
        openssl(
            "req",
            "-x509",
            *key,
            "-days",
            "2",
            "-subj",
            f"/CN={authority}",
            "-keyout",
            f"{authority}.key",
            "-out",
            f"{authority}.pem",
        )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for name in ("server", "client"):
        openssl("req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem")
    return {path.name: path for path in folder.iterdir()}

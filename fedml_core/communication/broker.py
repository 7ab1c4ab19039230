"""A broker from pip alone, for demonstrations and for a few devices: amqtt in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedml_core.communication.mqtt import Broker
from fedml_core.errors import CommunicationError, ConfigError


@contextmanager
def embedded_broker(host: str = "127.0.0.1", port: int = 1883, password_file: Path | None = None) -> Iterator[Broker]:
    """Run a broker while the `with` block lasts; yields where it is.

    Args:
        password_file: lines of `user:hash`, as amqtt's file plugin reads them; None lets in everybody, which is for this machine only.

    Raises:
        ConfigError: others than this machine could come in without a password.
        CommunicationError: amqtt is not installed, or the address cannot be listened at.
    """
    try:
        from amqtt.broker import Broker as Amqtt
        from amqtt.errors import AMQTTError
    except ImportError as error:
        raise CommunicationError("the embedded broker cannot be used: amqtt is not installed. Remedy: pip install amqtt") from error
    if password_file is None and not Broker(host, port, insecure=True).loopback:
        raise ConfigError(
            f"a broker at {host} without passwords would let in everybody on the network: give a password file, listen at 127.0.0.1, or "
            "use mosquitto with TLS"
        )
    access = "AnonymousAuthPlugin" if password_file is None else "FileAuthPlugin"
    settings = {"allow_anonymous": True} if password_file is None else {"password_file": str(password_file)}
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
        "plugins": {f"amqtt.plugins.authentication.{access}": settings},
    }
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    logging.getLogger("transitions").setLevel(logging.ERROR)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="broker", daemon=True)
    thread.start()

    async def start() -> Amqtt:
        broker = Amqtt(config)
        await broker.start()
        return broker

    try:
        try:
            broker = asyncio.run_coroutine_threadsafe(start(), loop).result()
        except (OSError, AMQTTError) as error:
            raise CommunicationError(
                f"no broker can listen at {host}:{port}: {error}; choose another port, or stop what is there"
            ) from error
        yield Broker(host, port)
        asyncio.run_coroutine_threadsafe(broker.shutdown(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

"""A broker from pip alone, for demonstrations and for a few devices: amqtt in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fedml_core.communication.mqtt import Broker
from fedml_core.errors import CommunicationError, ConfigError


@contextmanager
def embedded_broker(host: str = "127.0.0.1", port: int = 1883, insecure: bool = False) -> Iterator[Broker]:
    """Run a broker while the `with` block lasts; yields where it is. It knows no passwords and no encryption.

    Args:
        insecure: listen also to other machines.

    Raises:
        ConfigError: others than this machine could come in, and `insecure` does not say so.
        CommunicationError: amqtt is not installed, or the address cannot be listened at.
    """
    try:
        from amqtt.broker import Broker as Amqtt
        from amqtt.errors import BrokerError
    except ImportError as error:
        raise CommunicationError("the embedded broker cannot be used: amqtt is not installed. Remedy: pip install amqtt") from error
    where = Broker(host, port, insecure=True)
    if not (where.loopback or insecure):
        raise ConfigError(
            f"a broker at {host} would let in everybody on the network: listen at 127.0.0.1, use mosquitto with passwords and TLS, "
            "or accept that everybody there can read and forge the models: --insecure"
        )
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
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

    async def stop(broker: Amqtt) -> None:
        await broker.shutdown()
        # It leaves connections that are just being closed, and their tasks, behind.
        for connection in list(getattr(loop, "_transports", {}).values()):
            connection.abort()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    try:
        try:
            broker = asyncio.run_coroutine_threadsafe(start(), loop).result()
        except (OSError, BrokerError) as error:
            raise CommunicationError(f"no broker can listen at {host}:{port} ({error}): choose another port") from error
        try:
            yield where
        finally:
            asyncio.run_coroutine_threadsafe(stop(broker), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

"""MQTT backend: workers find each other at a broker. The only module that knows paho.

    mqtt://127.0.0.1:1883                                            on one machine
    mqtts://device-1@broker.example:8883?ca=ca.pem                   password from the environment: FEDML_MQTT_PASSWORD
    mqtts://broker.example?ca=ca.pem&cert=device-1.pem&key=device-1.key

All topics of a run are below `fedml/RUN/`; `reliable` has the table. A broker that distinguishes its users should let user NAME

    read   fedml/+/here/+        write  fedml/+/here/NAME
    read   fedml/+/to/NAME/+     write  fedml/+/to/+/NAME

which keeps everyone from speaking in another's name. The quality of service of MQTT ends at the broker, which may drop what it has
acknowledged: its queues are bounded, and with its default configuration they are lost when it dies. So everything travels as
QoS 0, and the transport in `reliable` acknowledges from end to end. Only features of MQTT 3.1.1 are used.

One thread per manager does all the network's work. It sleeps until a packet comes, a message is sent, or a timer is due.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import queue
import random
import re
import socket
import ssl
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from fedml_core.communication import codec
from fedml_core.communication.codec import Limits
from fedml_core.communication.com_manager import GONE, ComManager
from fedml_core.communication.message import Message
from fedml_core.communication.reliable import Departure, Endpoint, Part, check_name
from fedml_core.errors import CommunicationError, ConfigError, unknown

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo
    from paho.mqtt.reasoncodes import ReasonCode

log = logging.getLogger(__name__)

PASSWORD_VARIABLE = "FEDML_MQTT_PASSWORD"
# After so many silent seconds MQTT asks whether the other side is there; the broker gives a client up after 1.5 times that.
_KEEPALIVE = 15
# Seconds until a connection attempt is given up.
_PATIENCE = 5.0
# Seconds between attempts to reconnect: doubles from the first to the second, each drawn between half and all of it.
_BACK_OFF, _BACK_OFF_MOST = 0.1, 4.0
# paho looks after its keepalive when its loop is called.
_LONGEST_SLEEP = 5.0
# Bytes handed over and not yet acknowledged; beyond, `send` waits.
_UNDER_WAY = 256 << 20
# `close` gives up when nothing was acknowledged for so long.
_LINGER = 10.0
# For so long it also waits for receivers of whom nothing was heard yet: they may have come just now.
_GREETING = 2.0

_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)
# A broker that hangs up on the first attempts so often in a row, before it answers, means it.
_HANG_UPS = 3


@dataclass(frozen=True)
class Broker:
    """Where the broker is, and how this process proves who it is.

    Attributes:
        tls: encrypt, and check the broker's certificate against `ca` (None: what the system trusts).
        cert, key: PEM files of this process's own certificate, which may stand for user and password.
        insecure: allow a broker beyond this machine without encryption or without authentication.

    Raises:
        ConfigError: the settings contradict each other, or would send models over a network to whoever asks.
    """

    host: str = "127.0.0.1"
    port: int = 1883
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    insecure: bool = False

    @classmethod
    def parse(cls, url: str, insecure: bool = False) -> Broker:
        """The broker that `url` names: `mqtt[s]://[user[:password]@]host[:port][?ca=FILE&cert=FILE&key=FILE]`.

        Raises:
            ConfigError: it is no such URL, or as above.
        """
        try:
            parts = urlsplit(url)
            port, options = parts.port, dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        except ValueError as error:
            raise ConfigError(f"broker '{_public(url)}': {error}") from error
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path not in ("", "/"):
            raise ConfigError(f"broker '{_public(url)}': must look like mqtt://127.0.0.1:1883 or mqtts://user@host:8883?ca=ca.pem")
        if strange := [
            unknown("option of a broker", name, ("ca", "cert", "key")) for name in options if name not in ("ca", "cert", "key")
        ]:
            raise ConfigError(strange)
        tls = parts.scheme == "mqtts"
        user = None if parts.username is None else unquote(parts.username)
        password = os.environ.get(PASSWORD_VARIABLE) if parts.password is None else unquote(parts.password)
        return cls(
            parts.hostname, port or (8883 if tls else 1883), user, password if user else None, tls, insecure=insecure, **options
        )

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ConfigError(problems)

    def problems(self) -> list[str]:
        """What cannot work, or is not safe."""
        found = []
        if (self.ca or self.cert or self.key) and not self.tls:
            found.append("certificates are given, but the broker's URL is mqtt://: write mqtts://")
        if bool(self.cert) != bool(self.key):
            found.append("a client certificate needs both: cert=FILE and key=FILE")
        found += [f"{what}={path}: no such file" for what, path in self._files() if not os.path.isfile(path)]
        if not (self.loopback or self.insecure):
            way_out = "or accept that everybody on the network can read and forge the models: --insecure"
            if not self.tls:
                found.append(
                    f"broker {self.host} is on another machine and the connection is not encrypted: write mqtts://, {way_out}"
                )
            if not (self.password or self.cert):
                found.append(
                    f"broker {self.host} is on another machine and lets in whoever asks: give user and password (mqtts://user@..., "
                    f"password in the environment as {PASSWORD_VARIABLE}) or a client certificate (?cert=FILE&key=FILE), {way_out}"
                )
        return found

    def _files(self) -> list[tuple[str, str]]:
        return [(what, path) for what, path in (("ca", self.ca), ("cert", self.cert), ("key", self.key)) if path]

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"


class MqttComManager(ComManager):
    """The door of the worker `name` to all others of the same run at one broker.

    Returns when the name is ours. From then on a lost connection is renewed, with what was under way, for as long as it takes.
    Messages to a worker that is not here yet wait for it. A peer that we exchanged messages with and that is gone yields a message
    of type "gone", whose payload is "left" if it closed its door and "lost" if it died. If we were ourselves away for so long that
    others took us for dead, all peers are "gone", and may be greeted again.

    Args:
        run: the run; workers of different runs do not see each other.
        limits: of messages; `limits.total` is also what all messages being received may take together.
        timeout: seconds to wait for a broker that is not reachable (yet).

    Raises:
        CommunicationError: paho is not installed; the broker is not reachable, refuses us, or cannot be trusted; the name is taken.
    """

    def __init__(
        self,
        name: str,
        broker: Broker,
        run: str,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        timeout: float = 10.0,
    ) -> None:
        check_name("run", run)
        self.name = name
        self._broker, self._limits = broker, limits
        self._run, self._root = run, f"fedml/{run}/"
        self._inbox: queue.SimpleQueue[Message | tuple[str, memoryview] | None] = queue.SimpleQueue()

        # The lock guards what follows, and keeps frames in order on their way into paho's queue.
        self._lock = threading.Condition()
        self._endpoint = Endpoint(name, self, limits.total)
        self._closing = self._stopped = False
        self._accepted = self._ever_accepted = False
        self._trouble = f"{broker} does not answer"
        self._failure: str | None = None
        self._unwritten: deque[tuple[MQTTMessageInfo, Part]] = deque()
        self._client = self._make_client()

        self._thread = threading.Thread(target=self._communicate, name=f"mqtt {name}", daemon=True)
        self._thread.start()
        with self._lock:
            if not self._lock.wait_for(lambda: self._endpoint.here or self._stopped, timeout):
                self._fail(self._trouble)
            if self._failure:
                self._client.disconnect()
                raise CommunicationError(self._failure)

    def send(self, message: Message) -> None:
        body = b"".join(codec.encode(message))
        self._limits.check("total", len(body))
        with self._lock:
            self._lock.wait_for(
                lambda: self._done or not self._endpoint.outgoing or self._endpoint.outgoing + len(body) <= _UNDER_WAY
            )
            if self._done:
                raise CommunicationError(self._failure or f"{self.name} has closed its door; message '{message.type}' is not sent")
            if message.receiver == self.name:
                self.deliver(self.name, memoryview(body))
            else:
                self._endpoint.send(message.receiver, body)

    def receive(self, timeout: float | None = None) -> Message | None:
        """As in `ComManager`. What is not a message is logged and passed over.

        Raises:
            CommunicationError: the broker refuses us, or another process has taken our name.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                item = self._inbox.get(timeout=None if end is None else max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            if item is None:
                self._inbox.put(None)  # the last there is, for whoever asks next
                if self._failure:
                    raise CommunicationError(self._failure)
                return None
            message = item if isinstance(item, Message) else self._open(*item)
            if message is not None:
                return message

    def close(self) -> None:
        with self._lock:
            self._closing = True
            start = time.monotonic()
            while not self._stopped:
                greeting = start + _GREETING - time.monotonic()
                if not (left := self._endpoint.undelivered(absent=greeting > 0)):
                    break
                patience = max(start, self._endpoint.progress) + _LINGER - time.monotonic()
                if patience <= 0:
                    log.warning("%s closes; what was sent to %s is not delivered", self.name, ", ".join(left))
                    break
                self._lock.wait(min(patience, greeting) if greeting > 0 else patience)
            if not self._stopped:
                self._stopped = True
                self._endpoint.leave()
                self._client.disconnect()
            self._lock.notify_all()
        self._thread.join()

    # What the endpoint asks for; see `reliable.Network`. The lock is held.

    def publish(self, topic: str, payload: bytes, retain: bool = False, part: Part | None = None) -> None:
        info = self._client.publish(self._root + topic, payload, qos=0, retain=retain)
        if part and info.rc == 0:
            self._unwritten.append((info, part))

    def deliver(self, sender: str, body: memoryview) -> None:
        self._inbox.put((sender, body))

    def gone(self, peer: str, how: Departure) -> None:
        self._inbox.put(Message(GONE, peer, self.name, how, self._run))

    @property
    def _done(self) -> bool:
        return self._closing or self._stopped

    def _open(self, sender: str, body: memoryview) -> Message | None:
        """The message in `body`, or None if it is not one that `sender` may send."""
        if sender != self.name:
            with self._lock:
                self._endpoint.consumed(len(body))
                self._lock.notify_all()
        try:
            message = codec.decode(body, self._limits)
        except CommunicationError as error:
            log.warning("from '%s': %s", sender, error)
            return None
        if message.sender != sender or message.receiver != self.name:
            log.warning(
                "from '%s': a message from '%s' to '%s' is not delivered", sender, message.sender[:128], message.receiver[:128]
            )
            return None
        return message

    # The network thread.

    def _make_client(self) -> Client:
        try:
            from paho.mqtt.client import Client as PahoClient
            from paho.mqtt.client import MQTTv311
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise CommunicationError("MQTT cannot be used: paho is not installed. Remedy: pip install paho-mqtt") from error
        # An id per instance: two processes with one name must be told by us, not fight for a session at the broker.
        client = PahoClient(
            CallbackAPIVersion.VERSION2, f"fedml-{self._endpoint.instance.hex()}", clean_session=True, protocol=MQTTv311
        )
        broker = self._broker
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            try:
                client.tls_set(broker.ca, broker.cert, broker.key)
            except (OSError, ValueError) as error:
                raise CommunicationError(f"the certificates of this process cannot be used: {error}") from error
        client.will_set(f"{self._root}here/{self.name}", None, qos=0, retain=True)
        client.connect_timeout = _PATIENCE
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_socket_open = _without_delay
        # With this set, paho leaves writing to the thread that loops; else `publish` from another thread may write in between.
        client.on_socket_register_write = _nothing
        return client

    def _communicate(self) -> None:
        """Keep a connection, until told to stop or refused for good."""
        back_off, hang_ups = _BACK_OFF, 0
        try:
            while not self._stopped:
                self._accepted = False
                trouble = self._connect() or self._serve()
                with self._lock:
                    self._endpoint.disconnected()
                    self._unwritten.clear()
                    if self._stopped:
                        break
                    if self._accepted:
                        back_off, hang_ups = _BACK_OFF, 0
                        log.warning("%s: %s; connecting again", self.name, trouble)
                    elif not self._ever_accepted:
                        self._trouble = trouble
                        hang_ups += trouble == self._hung_up
                        if hang_ups == _HANG_UPS:
                            self._fail(trouble)
                    self._lock.wait_for(lambda: self._stopped, back_off * random.uniform(0.5, 1.0))
                    back_off = min(2 * back_off, _BACK_OFF_MOST)
        except Exception as error:  # whatever it is, nobody may be left waiting for this thread
            log.critical("%s stops communicating", self.name, exc_info=True)
            with self._lock:
                self._fail(f"{self.name} stopped communicating: {error}")
        self._inbox.put(None)

    def _fail(self, reason: str) -> None:
        """End for good; with the lock held."""
        self._failure = self._failure or reason
        self._stopped = True
        self._lock.notify_all()

    def _connect(self) -> str | None:
        """Open a connection; returns why that failed."""
        where = self._broker
        try:
            self._client.connect(where.host, where.port, _KEEPALIVE)
            return None
        except ssl.SSLCertVerificationError as error:
            trouble = (
                f"{where} is not trusted: {error.verify_message}; name its certificate authority (ca=FILE), and the host as its "
                "certificate does"
            )
        except ssl.SSLError as error:
            trouble = f"{where} cannot be spoken to: {error}; is it a TLS listener (else write mqtt://)?"
        except socket.gaierror as error:
            return f"{where} cannot be found: {error}"
        except ConnectionRefusedError:
            return f"nobody answers at {where}: is the broker running? `fedml broker` starts one"
        except ConnectionResetError:
            return self._hung_up
        except OSError as error:
            return f"{where} cannot be reached: {error}"
        if not self._ever_accepted:
            with self._lock:
                self._fail(trouble)
        return trouble

    def _serve(self) -> str:
        """Work until the connection ends; returns why it did."""
        answer_by, leaving = time.monotonic() + _PATIENCE, False
        while True:
            with self._lock:
                while self._unwritten and self._unwritten[0][0].is_published():
                    self._endpoint.written(self._unwritten.popleft()[1])
                pause = min(self._endpoint.tick(), _LONGEST_SLEEP)
                if self._endpoint.refusal:
                    self._fail(self._endpoint.refusal)
                if self._stopped and not leaving:
                    leaving = True
                    self._client.disconnect()
                self._lock.notify_all()
            ended = self._client.loop(max(0.0, pause))
            _acknowledge(self._client.socket())
            if ended:
                return "the connection broke" if self._accepted else self._hung_up
            if not self._accepted and time.monotonic() > answer_by:
                return f"{self._broker} does not answer as an MQTT broker does"

    @property
    def _hung_up(self) -> str:
        guess = "want TLS (write mqtts://), or not be an MQTT broker"
        if self._broker.cert:
            guess = f"not trust {self._broker.cert} (have it signed by the authority that the broker trusts)"
        elif self._broker.tls:
            guess = "want a client certificate (cert=FILE, key=FILE), or not be a TLS listener (write mqtt://)"
        return f"{self._broker} hung up without an answer: it may {guess}"

    def _on_connect(self, client: Client, userdata: object, flags: object, reason: ReasonCode, properties: object) -> None:
        if not reason.is_failure:
            self._accepted = self._ever_accepted = True
            self._trouble = (
                f"{self._broker} does not pass on what '{self.name}' says: its access rules must let this user read and write the "
                "topics that are listed in fedml_core/communication/mqtt.py"
            )
            client.subscribe([(f"{self._root}here/+", 0), (f"{self._root}to/{self.name}/+", 0)])
        elif str(reason) == "Server unavailable":
            self._trouble = f"{self._broker} says that it is unavailable"
        else:
            who = f"user '{self._broker.user}'" if self._broker.user else "whoever gives no user and password"
            with self._lock:
                self._fail(f"{self._broker} refuses {who}: {reason}; check user, password and the broker's list of users")

    def _on_subscribe(self, client: Client, userdata: object, mid: int, reasons: list[ReasonCode], properties: object) -> None:
        with self._lock:
            self._endpoint.connected()

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic.removeprefix(self._root)
        except UnicodeDecodeError:
            return
        with self._lock:
            self._endpoint.received(topic, bytes(message.payload), message.retain)


def _without_delay(client: Client, userdata: object, connection: Any) -> None:
    """Small frames are answers that somebody waits for."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge(connection: Any) -> None:
    """Acknowledge at once what TCP has received. A broker that joins small packets (mosquitto by default) waits for that before it
    sends the next one, and the kernel would let it wait 40 ms."""
    if connection and _QUICK_ACK:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)


def _nothing(client: Client, userdata: object, connection: object) -> None:
    pass


def _public(url: str) -> str:
    """`url` without a password, to be shown."""
    return re.sub(r"(//[^/@:]*):[^/@]*@", r"\1:***@", url)

"""MQTT between real processes and threads, over real mosquitto, and over amqtt where that suffices."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import random
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from fedml_core.communication import frames
from fedml_core.communication.broker import embedded_broker
from fedml_core.communication.codec import Limits
from fedml_core.communication.frames import CHUNK, Frame, Kind
from fedml_core.communication.message import Message
from fedml_core.communication.mqtt import Broker, MqttComManager
from fedml_core.errors import CommunicationError, ConfigError
from tests.brokers import Mosquitto, certificates, free_port, need_mosquitto

PATIENCE = 30.0


@pytest.fixture
def mosquitto(tmp_path):
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture(params=["mosquitto", "amqtt"])
def where(request, tmp_path):
    """Any broker with its default configuration."""
    if request.param == "amqtt":
        pytest.importorskip("amqtt", reason="amqtt is not installed (pip install amqtt)")
        with embedded_broker(port=free_port()) as broker:
            yield broker
    else:
        with Mosquitto(tmp_path) as broker:
            yield Broker.parse(broker.url)


@contextlib.contextmanager
def doors(where: Broker, *names: str):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(MqttComManager(name, where, "run")) for name in names]


def payload(number: int, size: int) -> dict[str, object]:
    data = torch.from_numpy(np.random.default_rng(number).integers(0, 256, size, np.uint8))
    return {"number": number, "data": data, "sum": checksum(data)}


def checksum(data: torch.Tensor) -> str:
    return hashlib.sha256(data.numpy().data).hexdigest()


def take(door: MqttComManager) -> Message:
    message = door.receive(PATIENCE)
    assert message is not None, "nothing came"
    return message


def check(message: Message) -> int:
    assert checksum(message.payload["data"]) == message.payload["sum"]
    return message.payload["number"]


def test_mixed_sizes_both_ways_in_order(where):
    sizes = [0, 10, 300, CHUNK, 70_000, 3 * CHUNK + 1, 5, 1_000_000] * 2
    with doors(where, "server", "device") as (server, device):
        for number, size in enumerate(sizes):
            server.send(Message("down", "server", "device", payload(number, size), "run"))
            device.send(Message("up", "device", "server", payload(number, size), "run"))
        assert [check(take(device)) for _ in sizes] == list(range(len(sizes)))
        assert [check(take(server)) for _ in sizes] == list(range(len(sizes)))
        assert server.receive(0.0) is None


def test_twenty_megabytes_and_many_small_ones(mosquitto):
    with doors(Broker.parse(mosquitto.url), "server", "device") as (server, device):
        server.send(Message("big", "server", "device", payload(0, 20_000_000)))
        for number in range(1, 501):
            server.send(Message("small", "server", "device", payload(number, 8)))
        assert [check(take(device)) for _ in range(501)] == list(range(501))


def test_what_was_handed_over_may_be_written_into_and_what_came_is_ours(mosquitto):
    with doors(Broker.parse(mosquitto.url), "a", "b") as (a, b):
        for size in (10, 2 * CHUNK):
            data = torch.ones(size)
            a.send(Message("x", "a", "b", data))
            data.zero_()
            received = take(b).payload
            assert bool((received == 1).all())
            received.add_(1)


def test_a_message_to_oneself_and_one_to_somebody_who_comes_later(mosquitto):
    where = Broker.parse(mosquitto.url)
    with doors(where, "a") as (a,):
        a.send(Message("x", "a", "a", 1))
        assert take(a).payload == 1
        a.send(Message("x", "a", "b", 2))
        with doors(where, "b") as (b,):
            assert take(b).payload == 2


def test_runs_do_not_see_each_other(mosquitto):
    where = Broker.parse(mosquitto.url)
    with MqttComManager("a", where, "one") as a, MqttComManager("b", where, "two") as b:
        a.send(Message("x", "a", "b", 1))
        assert b.receive(0.3) is None
        a.close()


def test_closing_delivers_first_and_then_the_door_is_shut(mosquitto):
    with doors(Broker.parse(mosquitto.url), "a", "b") as (a, b):
        a.send(Message("x", "a", "b", payload(1, 5_000_000)))
        a.close()
        a.close()
        assert check(take(b)) == 1
        left = take(b)
        assert (left.type, left.sender, left.payload) == ("gone", "a", "left")
        assert a.receive() is None
        with pytest.raises(CommunicationError, match="closed its door"):
            a.send(Message("x", "a", "b"))


@pytest.mark.parametrize("moment", [0.05, 0.3])
def test_a_broker_that_is_killed_and_started_again_loses_nothing(mosquitto, moment):
    """With its default configuration it forgets everything: subscriptions, presence, queues."""
    count = 40
    with doors(Broker.parse(mosquitto.url), "server", "device") as (server, device):
        senders = [
            threading.Thread(
                daemon=True, target=lambda a=a, b=b: [a.send(Message("x", a.name, b, payload(n, 1_000_000))) for n in range(count)]
            )
            for a, b in ((server, "device"), (device, "server"))
        ]
        for sender in senders:
            sender.start()
        time.sleep(moment)
        mosquitto.kill()
        time.sleep(0.3)
        mosquitto.start()
        for door in (server, device):
            assert [check(take(door)) for _ in range(count)] == list(range(count))
        for sender in senders:
            sender.join()
        assert server.receive(0.2) is None


DEVICE = """
import sys, torch
from fedml_core.communication.message import Message
from fedml_core.communication.mqtt import Broker, MqttComManager
door = MqttComManager("device", Broker.parse(sys.argv[1]), "run")
door.send(Message("join", "device", "server"))
door.receive()
door.send(Message("upload", "device", "server", torch.zeros(50_000_000, dtype=torch.uint8)))
print("uploading", flush=True)
door.receive()
"""


def start_device(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", DEVICE, url], stdout=subprocess.PIPE, text=True)


def test_a_killed_process_is_gone_and_its_successor_gets_the_name(mosquitto):
    with doors(Broker.parse(mosquitto.url), "server") as (server,):
        first = start_device(mosquitto.url)
        assert take(server).type == "join"
        first.kill()
        first.wait()
        killed = time.monotonic()
        second = start_device(mosquitto.url)
        for expected in ("gone", "join"):
            message = take(server)
            assert (message.type, message.sender) == (expected, "device")
        assert time.monotonic() - killed < 20
        server.send(Message("go", "server", "device"))
        assert second.stdout is not None
        assert second.stdout.readline() == "uploading\n"
        second.kill()
        second.wait()
        gone = take(server)
        while gone.type == "upload":
            gone = take(server)
        assert (gone.type, gone.payload) == ("gone", "lost")
        first.stdout.close()
        second.stdout.close()


def test_a_taken_name_is_refused_and_its_owner_goes_on(where, caplog):
    with doors(where, "server", "device") as (server, device):
        with pytest.raises(CommunicationError, match=r"the name 'device' is taken.*its own name"):
            MqttComManager("device", where, "run")
        assert "asked for the name 'device'" in caplog.text
        server.send(Message("x", "server", "device", 1))
        assert take(device).payload == 1


def test_a_free_name_can_be_taken_again(where):
    for _ in range(3):
        with doors(where, "device"):
            pass


def test_nobody_answers():
    with pytest.raises(CommunicationError, match=r"nobody answers at mqtt://127.0.0.1:\d+: is the broker running"):
        MqttComManager("a", Broker(port=free_port()), "run", timeout=0.5)


def test_a_broker_that_comes_up_later_is_waited_for(tmp_path):
    with Mosquitto(tmp_path) as mosquitto:
        mosquitto.kill()
        start = threading.Timer(0.5, mosquitto.start)
        start.start()
        with doors(Broker.parse(mosquitto.url), "a"):
            start.join()


def test_passwords(tmp_path):
    need_mosquitto()
    (tmp_path / "passwords").write_text("device:secret\n")
    subprocess.run(["mosquitto_passwd", "-U", tmp_path / "passwords"], check=True)
    config = ["listener {port} 127.0.0.1", f"password_file {tmp_path / 'passwords'}", "user root"]
    with Mosquitto(tmp_path, config) as mosquitto:
        with doors(Broker.parse(f"mqtt://device:secret@127.0.0.1:{mosquitto.port}"), "device"):
            pass
        start = time.monotonic()
        with pytest.raises(CommunicationError, match=r"refuses user 'device'.*check user, password"):
            MqttComManager("device", Broker.parse(f"mqtt://device:wrong@127.0.0.1:{mosquitto.port}"), "run")
        with pytest.raises(CommunicationError, match="refuses whoever gives no user and password"):
            MqttComManager("device", Broker.parse(mosquitto.url), "run")
        assert time.monotonic() - start < 5


# paho leaves the socket of a failed handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_certificates(tmp_path):
    need_mosquitto()
    pem = certificates(tmp_path)
    server = [f"cafile {pem['ca.pem']}", f"certfile {pem['server.pem']}", f"keyfile {pem['server.key']}"]
    access = ["require_certificate true", "use_identity_as_username true", "user root"]
    with Mosquitto(tmp_path, ["listener {port} 127.0.0.1", *server, *access]) as mosquitto:
        url = f"mqtts://127.0.0.1:{mosquitto.port}?ca={pem['ca.pem']}"
        own = f"&cert={pem['client.pem']}&key={pem['client.key']}"
        with doors(Broker.parse(url + own), "a", "b") as (a, b):
            a.send(Message("x", "a", "b", payload(1, 1_000_000)))
            assert check(take(b)) == 1
        start = time.monotonic()
        for bad, remedy in {
            url: r"a client certificate \(cert=FILE, key=FILE\)",
            f"mqtts://127.0.0.1:{mosquitto.port}?ca={pem['stranger.pem']}{own}": r"is not trusted.*authority \(ca=FILE\)",
            f"mqtts://127.0.0.1:{mosquitto.port}?{own[1:]}": "is not trusted",
            mosquitto.url: r"it may want TLS \(write mqtts://\)",
        }.items():
            with pytest.raises(CommunicationError, match=remedy):
                MqttComManager("a", Broker.parse(bad), "run")
        assert time.monotonic() - start < 20
    with Mosquitto(tmp_path) as plain, pytest.raises(CommunicationError, match="or not be a TLS listener"):
        MqttComManager("a", Broker.parse(f"mqtts://127.0.0.1:{plain.port}?ca={pem['ca.pem']}"), "run")
    gc.collect()


def test_a_broker_beyond_this_machine_needs_encryption_and_authentication(monkeypatch):
    monkeypatch.delenv("FEDML_MQTT_PASSWORD", raising=False)
    with pytest.raises(ConfigError) as refusal:
        Broker.parse("mqtt://192.0.2.1")
    assert len(refusal.value.problems) == 2
    assert "write mqtts://" in str(refusal.value)
    assert "--insecure" in str(refusal.value)
    with pytest.raises(ConfigError, match="not encrypted"):
        Broker.parse("mqtt://user:secret@broker.example")
    with pytest.raises(ConfigError, match="user and password"):
        Broker.parse("mqtts://broker.example")
    assert Broker.parse("mqtt://192.0.2.1", insecure=True).port == 1883
    assert Broker.parse("mqtts://user:p%40ss@broker.example").password == "p@ss"
    monkeypatch.setenv("FEDML_MQTT_PASSWORD", "from-the-environment")
    assert Broker.parse("mqtts://user@broker.example").password == "from-the-environment"
    with pytest.raises(ConfigError, match="would let in everybody"), embedded_broker("0.0.0.0", free_port()):
        pass


def test_a_port_that_is_taken():
    pytest.importorskip("amqtt", reason="amqtt is not installed (pip install amqtt)")
    port = free_port()
    with embedded_broker(port=port), pytest.raises(CommunicationError, match="choose another port"), embedded_broker(port=port):
        pass


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:1883", "http://127.0.0.1", "mqtt://", "mqtt://127.0.0.1:x", "mqtt://127.0.0.1/run", "mqtt://127.0.0.1?a=b"],
)
def test_what_is_no_url_of_a_broker_is_refused(url):
    with pytest.raises(ConfigError):
        Broker.parse(url)


def test_no_password_is_shown():
    assert "secret" not in repr(Broker.parse("mqtts://user:secret@broker.example"))
    with pytest.raises(ConfigError) as refusal:
        Broker.parse("tcp://user:secret@broker.example")
    assert "secret" not in str(refusal.value)


def test_a_message_beyond_the_limits_is_not_sent(mosquitto):
    with (
        MqttComManager("a", Broker.parse(mosquitto.url), "run", Limits(total=1000)) as a,
        pytest.raises(CommunicationError, match=r"Limits.total = 1000"),
    ):
        a.send(Message("x", "a", "b", payload(1, 2000)))


def garbage(real_frames: list[tuple[str, bytes]], draw: random.Random, number: int) -> tuple[str, bytes]:
    """Random bytes, real frames with some bytes changed, and forged frames with right digests and absurd fields."""
    topic, real = draw.choice(real_frames)
    frame = frames.parse(real)
    assert frame
    fake = f"fedml/run/to/server/fake-{number}"
    match number % 5:
        case 0:
            return topic, draw.randbytes(draw.randrange(1, 3000))
        case 1:
            changed = bytearray(real)
            for _ in range(draw.randrange(1, 4)):
                changed[draw.randrange(len(changed))] ^= draw.randrange(1, 256)
            return topic, bytes(changed)
        case 2:
            size = draw.choice([0, 1, CHUNK + 1, 2**30, 2**40, 2**64 - 1])
            return fake, Frame(Kind.OFFER, draw.randbytes(8), frame.target, 0, size).pack()
        case 3:
            place = draw.choice([topic, fake])
            numbers = draw.choice([0, 1, 2**32, 2**64 - 1]), draw.choice([0, 5, 2**64 - 1])
            return place, Frame(Kind.PART, draw.randbytes(8), frame.target, *numbers, 2**32 - 1, data=draw.randbytes(50)).pack()
        case _:
            return fake, Frame(Kind.PUSH, draw.randbytes(8), frame.target, 0, 60, data=draw.randbytes(60)).pack()


def test_garbage_on_all_topics_of_a_worker_does_not_disturb_its_traffic(mosquitto):
    where, draw = Broker.parse(mosquitto.url), random.Random(0)
    intruder = Client(CallbackAPIVersion.VERSION2)
    seen: list[tuple[str, bytes]] = []

    def listen(client, userdata, message):
        if message.topic == "fedml/run/to/server/device" and frames.parse(message.payload):
            seen.append((message.topic, message.payload))

    intruder.on_message = listen
    intruder.connect(where.host, where.port)
    intruder.subscribe("fedml/#")
    intruder.loop_start()
    with MqttComManager("server", where, "run", Limits(total=1 << 30)) as server, doors(where, "device") as (device,):
        for number in range(10):
            device.send(Message("x", "device", "server", payload(number, 600_000)))
            assert check(take(server)) == number
        real = seen[:30]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(1000):
            intruder.publish(*garbage(real, draw, number))
            if number % 50 == 0:
                device.send(Message("x", "device", "server", payload(number, 600_000)))
        came = []
        while len(came) < 20:
            message = take(server)
            if message.type != "gone":
                came.append(check(message))
        assert came == list(range(0, 1000, 50))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 100 << 10, f"{grown} KiB more"
    intruder.disconnect()
    intruder.loop_stop()


def test_an_idle_worker_does_nothing(mosquitto):
    code = """
import sys, time
from fedml_core.communication.mqtt import Broker, MqttComManager
with MqttComManager("idle", Broker.parse(sys.argv[1]), "run") as com:
    com.receive(0.3)
    start = time.process_time()
    com.receive(2.0)
    print(time.process_time() - start)
"""
    used = subprocess.run([sys.executable, "-c", code, mosquitto.url], check=True, capture_output=True, text=True).stdout
    assert float(used) < 0.02


def test_importing_needs_no_paho():
    modules = "fedml_core.communication.mqtt, fedml_core.communication.broker"
    code = f"import sys, {modules}; print('paho' in sys.modules, 'amqtt' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert run.stdout.strip() == "False False"

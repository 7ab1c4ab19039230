"""Server and workers over the loopback network: who does what, what is refused, and what a failure looks like."""

import threading
import time
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from fedml_api import Classifier, Experiment, FedAvg, LocalSGD, Standalone, simulate
from fedml_api.distributed import Loopback, Mpi
from fedml_api.distributed.parcel import objection
from fedml_api.distributed.server import PROTOCOL, Patience, RemoteCohort, RemoteSession, ServerManager
from fedml_api.distributed.worker import ClientManager
from fedml_core import tree
from fedml_core.communication.loopback import loopback_network
from fedml_core.communication.message import SERVER, Message
from fedml_core.errors import CommunicationError, ConfigError, Refused, RoundFailed
from fedml_core.federation import ClientRunner, Mean, Reply, Setup, describe, restore, tasks
from fedml_core.federation.client import Task
from fedml_core.settings import settings
from fedml_core.trainer import Clip, Cosine, ModelState, Proximal


@tasks.register("count_visits")
@settings
class CountVisits(LocalSGD):
    """LocalSGD whose weight grows with each visit: shows whether private state finds its way back to its client."""

    def __call__(self, client, shared, own=None):
        reply = super().__call__(client, shared, own)
        visits = (client.state or {"visits": 0})["visits"] + 1
        return Reply(reply.value, reply.weight * visits, reply.metrics, {"visits": visits})


@tasks.register("picky")
@dataclass(frozen=True)
class Picky(LocalSGD):
    """A task whose constructor refuses with an exception of its own."""

    def __post_init__(self):
        raise ArithmeticError("not good")


@tasks.register("fail")
@settings
class Fail(LocalSGD):
    """A task that cannot be done."""

    def __call__(self, client, shared, own=None):
        raise ZeroDivisionError("no way")


def experiment(dataset, network, **changes):
    return Experiment(**({"model": network, "data": dataset, "rounds": 4, "clients_per_round": 3, "seed": 1} | changes))


def test_a_task_crosses_as_name_and_settings():
    task = LocalSGD(lr=Cosine(0.1, 5), steps=3, clip=1.0, transforms=(Proximal(0.5), Clip(2.0)))
    assert restore(Task, describe(task)) == task
    assert describe(task)["settings"]["lr"] == {"name": "cosine", "initial": 0.1, "rounds": 5, "final": 0.0}


def test_only_registered_tasks_cross():
    class Local(LocalSGD):
        pass

    with pytest.raises(CommunicationError, match=r"Local cannot leave this process.*@tasks.register"):
        describe(Local())


@pytest.mark.parametrize(
    "description",
    [
        None,
        {"kind": "task"},
        {"kind": "os", "settings": {"name": "system"}},
        {"kind": "task", "settings": {"name": "absent"}},
        {"kind": "aggregator", "settings": {"name": "mean"}},
        {"kind": "local update", "settings": {"name": "sgd", "lr": -1}},
        {"kind": "local update", "settings": {"name": "sgd"} | dict.fromkeys(map(str, range(20_000)))},
        {"kind": "task", "settings": {"name": "picky"}},
    ],
)
def test_what_describes_no_task_is_refused(description):
    with pytest.raises(CommunicationError):
        restore(Task, description)


@pytest.mark.parametrize("fold", [False, True])
def test_private_states_follow_their_clients(dataset, network, fold, tmp_path):
    from fedml_api.run.checkpoint import Checkpoints

    one = experiment(dataset, network, algorithm=FedAvg(CountVisits()))
    reference = simulate(one)
    one.engine = Loopback(workers=3, fold_on_workers=fold)
    found = simulate(one, checkpoints=Checkpoints(tmp_path), checkpoint_every=1)
    difference = tree.sub(found.model, reference.model)
    assert max(part.abs().max() for part in tree.tensors(difference)) <= (1e-6 if fold else 0)
    visits = Checkpoints(tmp_path).clients(4)
    assert sum(state["visits"] for _, state in visits) == 12


def test_a_worker_that_cannot_ends_the_run_with_its_reason(dataset, network):
    with pytest.raises(CommunicationError, match=r"round 1: worker-\d failed: ZeroDivisionError: no way"):
        simulate(experiment(dataset, network, algorithm=FedAvg(Fail()), engine=Loopback()))


def test_values_are_asked_for_once(dataset, network):
    setup = experiment(dataset, network).setup()
    with Loopback().open(setup) as session:
        values = session.cohort(0, ["c0"]).map(LocalSGD(), ModelState.of(network))
        assert list(values.gather()) == ["c0"]
        with pytest.raises(RuntimeError, match="once"):
            values.gather()


class Stage:
    """A server and workers that the test plays by hand."""

    def __init__(self, dataset, network, workers, patience):
        self.doors = loopback_network([SERVER, *workers])
        self.server = ServerManager(self.doors[SERVER], "run", "config", patience)
        self.session = RemoteSession(self.server, dict.fromkeys(dataset.client_ids, 1))
        self.runner = ClientRunner(Setup(Classifier(), network, dataset, 0, torch.device("cpu")))
        self.network = network

    def joins(self, name, client):
        self.say(name, "join", {"protocol": PROTOCOL, "config": None, "hosts": {client: 1}})
        self.server.attend_all()
        return self.doors[name].receive(1)

    def say(self, name, type, payload, **more):
        self.doors[name].send(Message(type, name, SERVER, payload, "run", **more))

    def answer(self, name, work, times=1):
        payload = ClientManager(self.doors[name], "run", None)._work(work.payload, work.round, self.runner)
        for _ in range(times):
            self.say(name, "done", payload, round=work.round, reply_to=work.id)

    def round(self, clients, number=0):
        """Runs in a thread: the server side of one map; the replies it got by client."""
        found = {}

        def serve():
            try:
                found.update(self.session.cohort(number, clients).map(LocalSGD(), ModelState.of(self.network)).gather())
            except RoundFailed as error:
                found["error"] = error

        thread = threading.Thread(daemon=True, target=serve)
        thread.start()
        return thread, found


@pytest.fixture
def stage(dataset, network):
    return Stage(dataset, network, ["a", "b", "c"], Patience(goal=2, minimum=1, deadline=0.5))


def test_a_round_ends_at_its_goal_and_late_and_double_replies_are_dropped(stage):
    for name, client in (("a", "c0"), ("b", "c1"), ("c", "c2")):
        assert stage.joins(name, client).type == "welcome"
    thread, found = stage.round(["c0", "c1", "c2"])
    work = {name: stage.doors[name].receive(1) for name in "abc"}
    stage.answer("a", work["a"], times=3)
    stage.answer("c", work["c"])
    thread.join(2)
    assert list(found) == ["c0", "c2"]
    thread, found = stage.round(["c0", "c1"], 1)
    stage.answer("b", work["b"])  # of the round before
    second = {name: stage.doors[name].receive(1) for name in "ab"}
    assert second["a"].round == 1
    stage.answer("b", second["b"])
    stage.answer("a", second["a"])
    thread.join(2)
    assert list(found) == ["c0", "c1"]


def test_a_straggler_costs_the_deadline_and_no_more(stage):
    for name, client in (("a", "c0"), ("b", "c1")):
        stage.joins(name, client)
    started = time.monotonic()
    thread, found = stage.round(["c0", "c1"])
    stage.answer("a", stage.doors["a"].receive(1))
    thread.join(5)
    assert list(found) == ["c0"]
    assert 0.4 < time.monotonic() - started < 2


def test_a_dead_device_costs_nothing_if_the_others_suffice(stage):
    for name, client in (("a", "c0"), ("b", "c1")):
        stage.joins(name, client)
    thread, found = stage.round(["c0", "c1"])
    stage.answer("a", stage.doors["a"].receive(1))
    stage.say("b", "gone", None)
    thread.join(5)
    assert list(found) == ["c0"]
    assert list(stage.server.members) == ["a"]


def test_a_client_that_nobody_hosts_any_more_is_missed_like_one_that_is_silent(stage):
    stage.joins("a", "c0")
    thread, found = stage.round(["left", "c0"])
    stage.answer("a", stage.doors["a"].receive(1))
    thread.join(5)
    assert list(found) == ["c0"]


def test_too_few_replies_make_the_round_fail(stage):
    stage.joins("a", "c0")
    thread, found = stage.round(["c0"])
    thread.join(5)
    assert "0 of 1 clients replied, at least 1 are needed" in str(found["error"])


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"protocol": 99, "config": None, "hosts": None}, f"speaks protocol 99, the server {PROTOCOL}: install the same version"),
        ({"protocol": PROTOCOL, "config": "else", "hosts": None}, "its configuration is else, the server's config"),
        ({"protocol": PROTOCOL, "config": None, "hosts": {"c0": 1}}, "client c0 is here already"),
        ({"nonsense": True}, "not one of this protocol"),
        ([1, 2], "not one of this protocol"),
        ({"protocol": PROTOCOL, "config": None, "hosts": {"c1": "many"}}, "not one of this protocol"),
    ],
)
def test_who_does_not_fit_is_refused_with_a_reason(stage, about, reason):
    stage.joins("b", "c0")
    stage.say("a", "join", about)
    stage.server.attend_all()
    answer = stage.doors["a"].receive(1)
    assert answer.type == "refused"
    assert reason in answer.payload["reason"]
    assert list(stage.server.members) == ["b"]
    stage.say("a", "join", about)
    stage.server.attend_all()
    with pytest.raises(CommunicationError, match="the server refused a"):
        ClientManager(stage.doors["a"], "run", None).join(1)


@pytest.mark.parametrize("hosts", [None, {}])
def test_who_must_have_clients_of_its_own_gets_no_others(stage, hosts):
    stage.server.own_clients = True
    stage.say("a", "join", {"protocol": PROTOCOL, "config": None, "hosts": hosts})
    stage.server.attend_all()
    assert "names no client of its own" in stage.doors["a"].receive(1).payload["reason"]
    assert not stage.server.members
    assert stage.joins("b", "c0").type == "welcome"


@pytest.mark.parametrize("ongoing", [False, True])
def test_private_states_that_a_device_sends_are_not_kept(stage, ongoing):
    for name, client in (("a", "c0"), ("b", "c1")):
        stage.joins(name, client)
    model = ModelState.of(stage.network)
    cohort = stage.session.cohort(0, ["c0", "c1"])
    if ongoing:
        cohort.begin(CountVisits(), model)
    values = cohort.map(CountVisits(), model)
    thread = threading.Thread(daemon=True, target=lambda: [*cohort.arrivals(2)] if ongoing else values.gather())
    thread.start()
    for name in "ab":
        work = stage.doors[name].receive(1)
        answer = ClientManager(stage.doors[name], "run", None)._work(work.payload, work.round, stage.runner)
        assert all(reply.state == {"visits": 1} for reply in answer["replies"].values())
        stage.say(name, "done", answer, round=work.round, reply_to=work.id)
    thread.join(5)
    assert not thread.is_alive()
    assert stage.session.states == {}


def test_loopback_gives_the_bits_of_the_reference_for_any_number_of_workers(dataset, network):
    reference = simulate(experiment(dataset, network, engine=Standalone())).sha256
    for workers in (1, 2, 5):
        assert simulate(experiment(dataset, network, engine=Loopback(workers=workers))).sha256 == reference


def test_workers_compute_on_the_devices_of_the_engine(dataset, network):
    reference = simulate(experiment(dataset, network)).sha256
    assert simulate(experiment(dataset, network, engine=Loopback(devices=("cpu", "cpu")))).sha256 == reference
    for engine in (Loopback(devices=("cpu", "gpu1")), Mpi(devices=("cpu", "gpu1"))):
        with pytest.raises(ConfigError, match=r"engine\.devices\[1\] = 'gpu1': must be cpu, cuda or cuda:N"):
            simulate(experiment(dataset, network, engine=engine))


def test_a_rank_loads_its_data_and_network_where_it_computes(dataset, network, monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3")
    # The "meta" device stands for a second one, which a machine of the tests does not have.
    setup = experiment(dataset, network, engine=Mpi(devices=("cpu", "meta"))).setup()
    assert setup.device == torch.device("meta")
    assert {part.device for part in ModelState.of(setup.module).params.values()} == {setup.device}
    assert {part.device for part in setup.data.train("c0").all().values()} == {setup.device}
    assert ClientRunner(setup).workspace.device == setup.device


def test_what_arrives_lies_on_the_device_of_the_receiver(dataset, network):
    doors, meta = loopback_network([SERVER, "a"]), torch.device("meta")
    seen = []

    def runner(id, round, task, shared, own, state):
        seen.extend(tree.tensors([shared, own, state]))
        return Reply(ModelState({"w": torch.ones(5)}, {}), 1.0, {}, torch.ones(3))

    def work():
        manager = ClientManager(doors["a"], "run", "config", device=meta)
        manager.join()
        manager.serve(runner)

    thread = threading.Thread(daemon=True, target=work)
    thread.start()
    server = ServerManager(doors[SERVER], "run", "config")
    server.wait_for(1)
    session = RemoteSession(server, {"c0": 1}, device=meta)
    session.restore([("c0", torch.ones(3))])
    replies = session.cohort(0, ["c0"]).map(LocalSGD(), ModelState({"w": torch.ones(5)}, {}), {"c0": torch.ones(4)}).gather()
    server.finish()
    thread.join(5)
    assert [(part.device, len(part)) for part in seen] == [(meta, 5), (meta, 4), (meta, 3)]
    assert replies["c0"].value.params["w"].device == meta


@pytest.mark.parametrize(
    ("type", "payload", "reason"),
    [
        ("welcome", {}, "not one of this protocol: install the same version"),
        ("welcome", [1], "not one of this protocol"),
        ("refused", {"reason": 3}, "not one of this protocol"),
        ("refused", {"reason": "go away"}, "refused a: go away"),
    ],
)
def test_an_answer_that_lets_nobody_in(type, payload, reason):
    doors = loopback_network([SERVER, "a"])
    doors[SERVER].send(Message(type, SERVER, "a", payload, "run"))
    with pytest.raises(Refused, match=reason):
        ClientManager(doors["a"], "run", "config").join(5)


def test_numbers_whose_sum_overflows_are_finite():
    def problem(*numbers):
        change = ModelState({"w": torch.tensor(numbers)}, {})
        model = ModelState({"w": torch.zeros(3)}, {})
        return objection({"replies": {"c0": Reply(change, 1.0, {})}}, ["c0"], LocalSGD(), model, None)

    assert problem(3e38, 3e38, 3e38) is None
    for number in ("inf", "-inf", "nan"):
        assert "not finite" in str(problem(1.0, float(number), 2.0))


def spoilt(payload, how):
    """An answer that can be decoded but must not be believed."""
    ((client, reply),) = payload["replies"].items()
    nan = tree.map_tensors(lambda part: part * float("nan"), reply.value)
    params = reply.value.params
    short = ModelState({name: part[:1] for name, part in params.items()}, {})
    text = ModelState({name: str((part.dtype, tuple(part.shape))) for name, part in params.items()}, {})
    reverse = ModelState(dict(reversed(params.items())), {})

    def measured(total, count):
        return {"replies": {client: Reply(reply.value, 1.0, {"loss": Mean(total, count)})}}

    return {
        "no replies": {"hello": 1},
        "not a dict": [1, 2],
        "another's": {"replies": {"c9": reply}},
        "not a reply": {"replies": {client: 5}},
        "heavy": {"replies": {client: Reply(reply.value, float("inf"), {})}},
        "negative": {"replies": {client: Reply(reply.value, -1.0, {})}},
        "odd metrics": {"replies": {client: Reply(reply.value, 1.0, {"loss": "high"})}},
        "nan": {"replies": {client: Reply(nan, 1.0, {})}},
        "other shapes": {"replies": {client: Reply(short, 1.0, {})}},
        "folded": {"folded": reply.value, "states": {}},
        "no model": {"replies": {client: Reply(None, 1.0, {})}},
        "odd type": {"replies": {client: Reply({"x": torch.zeros(1).to(torch.float8_e4m3fn)}, 1.0, {})}},
        "too heavy": {"replies": {client: Reply(reply.value, 2**64 - 1, {})}},
        "text": {"replies": {client: Reply(text, 1.0, {})}},
        "text for all": {"replies": {client: Reply(ModelState("weight", "bias"), 1.0, {})}},
        "other order": {"replies": {client: Reply(reverse, 1.0, {})}},
        "nan loss": measured(float("nan"), 1.0),
        "infinite loss": measured(float("-inf"), 1.0),
        "a loss whose sum overflows": measured(1e308, 1.0),
        "infinite count": measured(1.0, float("inf")),
        "nan count": measured(1.0, float("nan")),
        "negative count": measured(1.0, -1),
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        *("no replies", "not a dict", "another's", "not a reply", "heavy", "negative", "odd metrics", "nan", "other shapes"),
        *("folded", "no model", "odd type", "too heavy", "text", "text for all", "other order"),
        *("nan loss", "infinite loss", "a loss whose sum overflows"),
        *("infinite count", "nan count", "negative count"),
    ],
)
def test_what_a_device_makes_up_is_not_believed(stage, how):
    for name, client in (("a", "c0"), ("b", "c1"), ("c", "c2")):
        stage.joins(name, client)
    thread, found = stage.round(["c0", "c1", "c2"])
    work = {name: stage.doors[name].receive(1) for name in "abc"}
    honest = ClientManager(stage.doors["b"], "run", None)._work(work["b"].payload, 0, stage.runner)
    stage.say("b", "done", spoilt(honest, how), reply_to=work["b"].id)
    stage.say("c", "done", honest, reply_to=work["a"].id)  # in another's name
    stage.say("b", "error", 7, reply_to=work["b"].id)
    stage.answer("a", work["a"])
    stage.answer("c", work["c"])
    thread.join(5)
    assert list(found) == ["c0", "c2"]


def test_no_other_worker_speaks_for_the_server(stage):
    """What it says would end the run, or have the worker train, for whoever can reach the broker."""
    worker = ClientManager(stage.doors["b"], "run", None)
    for type in ("refused", "gone", "finish", "work"):
        stage.doors["a"].send(Message(type, "a", "b", {"reason": "no"}))
    stage.doors[SERVER].send(Message("welcome", SERVER, "b", {"config": "config"}))
    assert worker.join(1) == "config"
    for type in ("gone", "finish", "work"):
        stage.doors["a"].send(Message(type, "a", "b", {}))
    stage.doors[SERVER].send(Message("finish", SERVER, "b", {}))
    assert worker.serve(stage.runner)
    assert stage.doors["a"].receive(0) is None


def test_who_is_missing_in_a_part_is_missing_in_the_whole():
    session = SimpleNamespace(clients={"a": 1, "b": 1, "c": 1})
    whole = RemoteCohort(session, 0, ["a", "b", "c"])
    whole.only(["c", "b"]).only(["c"]).miss(["c"])
    whole.only(["a"]).miss([])
    assert whole.missing == ["c"]
    whole.only(["a", "b"]).miss(["a"])
    assert whole.missing == ["a", "c"]


def test_a_round_that_fails_at_once_is_not_tried_again_at_once(dataset, network, monkeypatch):
    tries, pauses = [], []
    clock = SimpleNamespace(perf_counter=time.perf_counter, monotonic=lambda: 5.0 + len(tries) / 4, sleep=pauses.append)

    class Deserted(FedAvg):
        def round(self, state, cohort):
            tries.append(cohort.round)
            if len(tries) in (2, 3):
                raise RoundFailed("nobody is here")
            return super().round(state, cohort)

    monkeypatch.setattr("fedml_api.run.experiment.time", clock)
    simulate(experiment(dataset, network, algorithm=Deserted(), rounds=3))
    assert tries == [0, 1, 1, 1, 2]
    assert pauses == [0.75, 0.75]  # a try takes a quarter of a second

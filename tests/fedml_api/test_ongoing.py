"""Devices that work at their own pace: whose replies count, and who is no longer waited for. The devices are played by hand."""

import threading
import time

import pytest

from fedml_api import LocalSGD
from fedml_api.distributed.server import Patience
from fedml_core.errors import RoundFailed
from fedml_core.trainer import ModelState
from tests.fedml_api.test_distributed import Stage

DEADLINE = 0.4


@pytest.fixture
def stage(dataset, network):
    stage = Stage(dataset, network, ["a", "b", "c"], Patience(minimum=1, deadline=DEADLINE))
    for name, client in (("a", "c0"), ("b", "c1"), ("c", "c2")):
        stage.joins(name, client)
    return stage


def begin(stage, clients, round=0):
    stage.session.cohort(round, clients).begin(LocalSGD(), ModelState.of(stage.network))
    return [stage.doors[name].receive(0.02) for name in "abc"]


def cohort(stage, round=0):
    return stage.session.cohort(round, ["c0", "c1", "c2"])


def arrivals(stage, count, round=0):
    return [client for client, _ in cohort(stage, round).arrivals(count)]


def test_replies_are_handed_on_as_they_arrive_in_this_round_or_a_later_one(stage):
    work = begin(stage, ["c0", "c1", "c2"])
    assert cohort(stage).at_work == {"c0": 0, "c1": 0, "c2": 0}
    stage.answer("c", work[2])
    stage.answer("a", work[0])
    assert arrivals(stage, 1) == ["c2"]
    assert cohort(stage).at_work == {"c0": 0, "c1": 0}
    again = begin(stage, ["c2"], 1)
    assert [message and message.round for message in again] == [None, None, 1]
    stage.answer("c", again[2])
    stage.answer("b", work[1])
    assert arrivals(stage, 9, 1) == ["c0", "c2", "c1"]
    assert cohort(stage).at_work == {}


def test_replies_of_others_wait_until_they_are_asked_for(stage):
    work = begin(stage, ["c0", "c1"])
    stage.answer("a", work[0])
    stage.answer("b", work[1])
    assert [client for client, _ in stage.session.cohort(0, ["c1"]).arrivals(1)] == ["c1"]
    assert arrivals(stage, 1) == ["c0"]


def test_who_does_not_answer_within_the_deadline_is_given_up(stage):
    work = begin(stage, ["c0", "c1"])
    stage.answer("a", work[0])
    started = time.monotonic()
    one = cohort(stage)
    assert [client for client, _ in one.arrivals(2)] == ["c0"]
    assert 0.5 * DEADLINE < time.monotonic() - started < 5 * DEADLINE
    assert one.missing == ["c1"]
    assert one.at_work == {}
    stage.answer("b", work[1])  # late
    begin(stage, ["c0"], 1)
    assert cohort(stage).at_work == {"c0": 1}


def test_the_deadline_begins_with_the_work_of_each(stage):
    stage.server.patience = Patience(minimum=1, deadline=1.0)
    begin(stage, ["c0"])
    time.sleep(0.7)
    work = begin(stage, ["c1"], 1)
    threading.Timer(0.5, stage.answer, ("b", work[1])).start()
    assert arrivals(stage, 2, 1) == ["c1"]


def test_what_arrived_before_anybody_looked_is_in_time(stage):
    work = begin(stage, ["c0", "c1", "c2"])
    for i, name in enumerate("abc"):
        stage.answer(name, work[i])
    time.sleep(1.2 * DEADLINE)
    assert arrivals(stage, 3) == ["c0", "c1", "c2"]


@pytest.mark.parametrize("how", ["gone", "anew", "error", "nonsense"])
def test_a_device_that_fails_gives_up_its_place_at_once(stage, how):
    stage.server.patience = Patience(minimum=1, deadline=60)
    work = begin(stage, ["c0", "c1"])
    match how:
        case "gone":
            stage.say("b", "gone", None)
        case "anew":
            stage.joins("b", "c1")
        case "error":
            stage.say("b", "error", {"reason": "no battery"}, reply_to=work[1].id)
        case "nonsense":
            stage.say("b", "done", {"replies": {"c0": 1}}, reply_to=work[1].id)
    stage.answer("a", work[0])
    one = cohort(stage)
    assert [client for client, _ in one.arrivals(2)] == ["c0"]
    assert one.missing == ["c1"]
    assert one.at_work == {}


def test_who_was_lost_between_two_rounds_is_missing_in_the_next_unless_it_begins_again(stage):
    begin(stage, ["c0", "c1"])
    for name in "ab":
        stage.say(name, "gone", None)
    other = begin(stage, ["c2"], 1)
    stage.joins("a", "c0")
    again = begin(stage, ["c0"], 1)
    for door, work, missing in (("a", again[0], ["c1"]), ("c", other[2], [])):
        stage.answer(door, work)
        one = cohort(stage, 1)
        list(one.arrivals(1))
        assert one.missing == missing


def test_who_is_hosted_by_nobody_does_not_begin(stage):
    stage.session.cohort(0, ["c3"]).begin(LocalSGD(), ModelState.of(stage.network))
    assert stage.session.cohort(0, ["c3"]).at_work == {}
    with pytest.raises(RoundFailed, match="round 1: 0 clients replied, at least 1 must"):
        arrivals(stage, 1)


def test_what_arrived_in_a_round_that_failed_counts_when_it_is_tried_again(stage):
    stage.server.patience = Patience(minimum=2, deadline=DEADLINE)
    work = begin(stage, ["c0", "c1"])
    stage.answer("a", work[0])
    with pytest.raises(RoundFailed, match="1 clients replied, at least 2"):
        arrivals(stage, 3)
    assert cohort(stage).at_work == {"c0": 0}
    again = begin(stage, ["c1"])
    stage.answer("b", again[1])
    assert arrivals(stage, 3) == ["c0", "c1"]


def test_beginning_again_gives_up_what_was_begun(stage):
    stage.server.patience = Patience(minimum=1)
    first = begin(stage, ["c0"])
    assert begin(stage, ["c0"], 4) == [None, None, None]  # the device is at work
    assert cohort(stage).at_work == {"c0": 4}
    stage.answer("a", first[0])
    stage.server.attend_all()
    thread = threading.Timer(0.1, lambda: stage.answer("a", stage.doors["a"].receive(2)))
    thread.start()
    ((client, reply),) = cohort(stage, 5).arrivals(1)
    thread.join()
    fifth = stage.runner("c0", 4, LocalSGD(), ModelState.of(stage.network), None, None)
    assert client == "c0"
    assert all((reply.value.params[name] == fifth.value.params[name]).all() for name in reply.value.params)


def test_a_reply_to_what_was_given_up_is_not_handed_on(stage):
    work = begin(stage, ["c0"])
    stage.answer("a", work[0])
    again = begin(stage, ["c0"], 4)
    assert again[0].round == 4  # the device is free: what it replied was given up
    stage.answer("a", again[0])
    begin(stage, ["c1"], 5)
    begin(stage, ["c0"], 6)  # whose reply is here already
    with pytest.raises(RoundFailed):
        arrivals(stage, 1, 6)


def test_a_failure_of_what_was_given_up_is_none_of_what_was_begun_since(stage):
    work = begin(stage, ["c0"])
    begin(stage, ["c0"], 4)
    stage.say("a", "error", {"reason": "no battery"}, reply_to=work[0].id)
    begin(stage, ["c1"], 4)
    assert cohort(stage).at_work == {"c0": 4, "c1": 4}


def test_a_round_beside_takes_no_replies_away(stage):
    work = begin(stage, ["c0", "c1"])
    stage.answer("a", work[0])
    thread, found = stage.round(["c2"], 1)
    beside = stage.doors["c"].receive(1)
    stage.answer("b", work[1])
    stage.answer("c", beside)
    thread.join(2)
    assert list(found) == ["c2"]
    assert arrivals(stage, 2, 1) == ["c0", "c1"]

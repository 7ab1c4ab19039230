"""Recorded steps: when they are recorded, for which tensors, with which numbers, and what happens when they cannot be."""

import pytest
import torch

from fedml_api.model import ReddiCNN, TwoNN
from fedml_core import rng, tree
from fedml_core.trainer import Classifier, traced
from fedml_core.trainer.replay import WARM_UP, Replay, recorder_of
from fedml_core.trainer.traced import TracedStep

IMAGE = (1, 12, 12)
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Pretender:
    """Records on the CPU as a CUDA graph would: nothing is carried out, and what is replayed works on the addresses of then.

    Args:
        kept: what the recorded calls write into, to be put back after the call that shows what there is to record.
    """

    def __init__(self, kept, error=None):
        self.kept, self.given_up, self.error = kept, False, error
        self.warmed = self.recorded = self.replayed = 0

    def warm(self, call):
        self.warmed += 1
        return call()

    def record(self, call):
        if self.error:
            self.given_up = True
            return None
        self.recorded += 1
        before = [part.clone() for part in self.kept]
        results = call()
        torch._foreach_copy_(self.kept, before)

        def replay():
            self.replayed += 1
            tree.copy_(results, call())

        return replay, results


def add_and_count(total, x, y):
    """Writes into `total`, and returns something."""
    total.add_(x)
    return {"product": x * y, "total": total}


def test_calls_are_carried_out_once_each_then_recorded_then_replayed():
    total = torch.zeros(3)
    recorder = Pretender([total])
    step = Replay(add_and_count, recorder)
    for call in range(1, 8):
        x, y = torch.full((3,), float(call)), torch.arange(3.0) * call
        found = step([total], [x, y])
        torch.testing.assert_close(found["product"], x * y)
        torch.testing.assert_close(found["total"], torch.full((3,), call * (call + 1) / 2))
        torch.testing.assert_close(total, found["total"])
    assert (recorder.warmed, recorder.recorded, recorder.replayed) == (WARM_UP, 1, 7 - WARM_UP)


def test_results_are_the_callers_own():
    total = torch.zeros(3)
    step = Replay(add_and_count, Pretender([total]))
    found = [step([total], [torch.full((3,), float(k)), torch.ones(3)])["product"] for k in range(6)]
    assert [part[0].item() for part in found] == [0, 1, 2, 3, 4, 5]


def test_what_is_given_is_read_and_never_written():
    total, x, y = torch.zeros(3), torch.ones(3), torch.ones(3)
    step = Replay(add_and_count, Pretender([total]))
    for _ in range(5):
        step([total], [x, y])
    assert x.tolist() == y.tolist() == [1, 1, 1]


def test_a_recording_holds_for_the_addresses_it_was_made_at():
    memory = torch.zeros(4, 3)
    recorder = Pretender([memory[:2]])
    step = Replay(add_and_count, recorder)
    for _ in range(5):
        step([memory[:2]], [torch.ones(2, 3), torch.ones(2, 3)])  # another view, the same place
    assert recorder.recorded == 1
    elsewhere = torch.zeros(2, 3)
    recorder.kept = [elsewhere]
    for _ in range(4):
        step([elsewhere], [torch.ones(2, 3), torch.ones(2, 3)])
    assert recorder.recorded == 2
    assert memory.sum() == 5 * 6
    assert elsewhere.sum() == 4 * 6


def test_tensors_that_never_stay_in_place_are_never_recorded():
    recorder = Pretender([])
    step, places = Replay(add_and_count, recorder), [torch.zeros(3), torch.zeros(3)]
    for k in range(10):
        step([places[k % 2]], [torch.ones(3), torch.ones(3)])
    assert (recorder.warmed, recorder.recorded) == (10, 0)
    assert places[0].tolist() == places[1].tolist() == [5, 5, 5]


def test_after_a_failure_everything_goes_on_plainly():
    total = torch.zeros(3)
    recorder = Pretender([total])
    before = Replay(add_and_count, recorder)
    for _ in range(4):
        before([total], [torch.ones(3), torch.ones(3)])
    recorder.error = "no"
    other = Replay(add_and_count, recorder)
    for _ in range(5):
        other([total], [torch.ones(3), torch.ones(3)])
    assert recorder.given_up
    replayed = recorder.replayed
    before([total], [torch.ones(3), torch.ones(3)])
    assert recorder.replayed == replayed, "one recording failed, so none is trusted"
    assert total.tolist() == [10, 10, 10]


def stack(module, clients, rows, device="cpu"):
    torch.manual_seed(1)
    params = [torch.stack([part.detach()] * clients).to(device) for part in module.parameters()]
    batches = [
        {"x": torch.randn(clients, rows, *IMAGE).to(device), "y": torch.randint(0, 3, (clients, rows)).to(device)} for _ in range(6)
    ]
    return params, batches, torch.full((clients, rows), 1 / rows, device=device)


def test_traced_steps_are_recorded_and_the_rate_may_change(monkeypatch):
    """The steps of a decaying rate, recorded and not: the rate is a number, which a recording could not change."""
    torch.manual_seed(0)
    module = TwoNN(hidden=9).build(IMAGE, 3)
    params, batches, weights = stack(module, 2, 4)
    plain, recorder = [part.clone() for part in params], Pretender(params)
    wanted = TracedStep(Classifier(), module, plain, batches[0], weights, stacked=True)
    monkeypatch.setattr(traced, "recorder_of", lambda device: recorder)
    step = TracedStep(Classifier(), module, params, batches[0], weights, stacked=True)
    for k, batch in enumerate(batches):
        rate = 0.1 / (k + 1)
        losses = step.descend(params, batch, weights, rate)
        torch.testing.assert_close(losses, wanted.descend(plain, batch, weights, rate))
        torch.testing.assert_close(params, plain)
    assert (recorder.recorded, recorder.replayed) == (1, len(batches) - WARM_UP)
    for batch in batches:
        torch.testing.assert_close(step.gradients(params, batch, weights), wanted.gradients(plain, batch, weights))
    assert (recorder.recorded, recorder.replayed) == (2, 2 * (len(batches) - WARM_UP))


def test_there_is_no_recorder_on_the_cpu():
    assert recorder_of(torch.device("cpu")) is None


@CUDA
@pytest.mark.parametrize("stacked", [True, False])
def test_graphs_replay_what_plain_steps_do(monkeypatch, stacked):
    """With dropout, whose masks must follow the seed that is set between two replays."""
    torch.manual_seed(0)
    device, module = torch.device("cuda:0"), ReddiCNN().build(IMAGE, 3).cuda()
    params, batches, weights = stack(module.cpu(), 3, 4, device)
    module.cuda()
    if not stacked:
        params, weights = [part[0].clone() for part in params], weights[0]
        batches = [{name: column[0] for name, column in batch.items()} for batch in batches]
    plain = [part.clone() for part in params]
    recorded = TracedStep(Classifier(), module, params, batches[0], weights, stacked)
    monkeypatch.setattr(traced, "recorder_of", lambda device: None)
    wanted = TracedStep(Classifier(), module, plain, batches[0], weights, stacked)
    for k, batch in enumerate(batches):
        for step, at in ((recorded, params), (wanted, plain)):
            rng.seed_torch(7, "train", k, device=device)
            step.descend(at, batch, weights, 0.1 / (k + 1))
        torch.testing.assert_close(params, plain, rtol=1e-4, atol=1e-5)
    assert recorded._descend._recording is not None
    assert not recorder_of(device).given_up


@CUDA
def test_what_cannot_be_recorded_goes_on_plainly(caplog):
    def looks(total, x):
        return total.add_(float(x.sum()))  # asks the device for a number, which a recording has not

    total = torch.zeros(3, device="cuda")
    recorder = recorder_of.__wrapped__(torch.device("cuda:0"))
    step = Replay(looks, recorder)
    for _ in range(5):
        step([total], [torch.ones(2, device="cuda")])
    assert total.tolist() == [10, 10, 10]
    assert recorder.given_up
    assert len([record for record in caplog.records if "not recorded as CUDA graphs" in record.message]) == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.rand(2, device="cuda").numel() == 2

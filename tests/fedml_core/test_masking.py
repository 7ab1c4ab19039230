"""Masks: exact cancellation, uniform letters, errors."""

import importlib.util

import numpy as np
import pytest
import torch

from fedml_core.errors import CommunicationError
from fedml_core.security.masking import Masks, unmasked

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("cryptography"), reason="needs the package cryptography")


def parties(count, purpose="test"):
    masks = {str(i): Masks(str(i), purpose) for i in range(count)}
    for name, own in masks.items():
        own.agree({other: theirs.public for other, theirs in masks.items() if other != name})
    return masks


@pytest.mark.parametrize("count", [2, 3, 5])
def test_masks_cancel_to_the_rounding(count):
    torch.manual_seed(0)
    masks = parties(count)
    for _ in range(3):  # the streams go on
        values = {name: torch.randn(7, 3) * 100 for name in masks}
        sent = {name: own.hide(values[name]) for name, own in masks.items()}
        wanted = sum((value.double() * 2**24).round() for value in values.values()) / 2**24
        assert torch.equal(unmasked(list(sent.values())), wanted.float())
        partial = unmasked(list(sent.values())[1:])
        assert not torch.allclose(partial, wanted.float(), atol=1e6)


def test_what_is_sent_is_uniform_whatever_the_value():
    masks = parties(2)
    sent = masks["0"].hide(torch.zeros(20_000)).numpy()
    counts = np.bincount(sent.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 8 * 22.6  # chi-square, 255 degrees of freedom
    assert len(set(sent.tolist())) == 20_000
    again = masks["0"].hide(torch.zeros(20_000)).numpy()
    assert not set(sent.tolist()) & set(again.tolist())


def test_another_purpose_makes_other_masks():
    one, other = Masks("0", "a"), Masks("1", "b")
    one.agree({"1": other.public})
    other.agree({"0": one.public})
    assert unmasked([one.hide(torch.zeros(4)), other.hide(torch.zeros(4))]).abs().min() > 1


def test_who_takes_a_key_for_anothers_has_other_masks():
    one, other = Masks("0", "a"), Masks("1", "a")
    one.agree({"2": other.public})
    other.agree({"0": one.public})
    assert unmasked([one.hide(torch.zeros(4)), other.hide(torch.zeros(4))]).abs().min() > 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**40])
def test_what_does_not_fit_is_refused(value):
    masks = parties(2)
    with pytest.raises(CommunicationError, match=r"0: a value is not below 1\.37e\+11 and cannot be masked"):
        masks["0"].hide(torch.tensor([1.0, value]))


@pytest.mark.parametrize("key", [None, torch.zeros(31, dtype=torch.uint8), torch.zeros(32, dtype=torch.uint8)], ids=str)
def test_what_is_no_key_is_refused(key):
    with pytest.raises(CommunicationError, match="1 has sent something that is no public key"):
        Masks("0", "test").agree({"1": key})

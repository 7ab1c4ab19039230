"""Weighted sums under encryption: the product of two matrices, and what the letters show."""

import importlib.util

import pytest
import torch

from fedml_core.errors import CommunicationError
from fedml_core.security import paillier
from fedml_core.security.paillier import Columns, Weights

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("cryptography"), reason="needs the package cryptography")


@pytest.fixture(autouse=True)
def short_keys(monkeypatch):
    monkeypatch.setattr(paillier, "BITS", 1024)


@pytest.fixture
def sides():
    weights = Weights()
    return weights, Columns(weights.public)


@pytest.mark.parametrize(("rows", "kinds", "width"), [(7, 1, 3), (5, 2, 9), (1, 1, 1)])  # 18 sums need two plaintexts of 10
def test_is_the_product_of_the_matrices(sides, rows, kinds, width):
    torch.manual_seed(0)
    weights, columns = sides
    g, x = torch.randn(rows, kinds) / rows, torch.randn(rows, width) * 3
    x[0, 0] = 0.0
    for sign in (1, -1):
        sums = columns.summed(weights.sealed(sign * g), x)
        assert sums.shape == (-(-kinds * width // 10), 256)
        found = columns.revealed(weights.opened(sums))
        # Of each product x is off by 2^-21 at most, g by 2^-31.
        torch.testing.assert_close(found, sign * (g.T @ x), rtol=0, atol=rows * (2**-21 + 2**-28))


def test_the_largest_numbers_fit(sides):
    weights, columns = sides
    g, x = torch.full((3, 1), -1023.0), torch.tensor([[32767.0, -32767.0, 1.0]]).expand(3, 3)
    found = columns.revealed(weights.opened(columns.summed(weights.sealed(g), x)))
    torch.testing.assert_close(found, g.T @ x)
    assert 2 ** (paillier.SLOT - 1) > 2**19 * 2**10 * 2**15 * 2**30 * 2**20


def test_it_is_paillier(sides):
    """What is sealed opens to itself modulo n by the textbook's formula, and products add up."""
    weights, _ = sides
    n = int.from_bytes(weights.public.numpy().tobytes(), "little")
    lam = weights._order
    one, other = (int.from_bytes(weights.sealed(torch.tensor([[v]])).numpy().tobytes(), "little") for v in (1.5, -0.25))

    def textbook(c):
        return (pow(c, lam, n * n) - 1) // n * pow(lam, -1, n) % n

    assert textbook(one) == int(1.5 * 2**30)
    assert textbook(other) == n - 2**28
    assert textbook(one * other % n**2) == int(1.25 * 2**30)


def test_the_same_numbers_never_look_the_same(sides):
    weights, columns = sides
    sealed = weights.sealed(torch.zeros(6, 1))
    assert len({bytes(row.numpy()) for row in sealed[:, 0]}) == 6
    x = torch.ones(6, 2)
    masked = [weights.opened(columns.summed(sealed, x)) for _ in range(8)]
    assert len({bytes(each.numpy()) for each in masked}) == 8
    # What the label holder finds is anything modulo n: its upper bits are both 0 and 1.
    tops = {int(each[0, -1]) >> 5 & 1 for each in masked} | {int(each[0, -2]) & 1 for each in masked}
    assert tops == {0, 1}


def test_what_the_party_sends_is_under_a_random_number_of_its_own(sides):
    """(1 + rho n) r^n is r^n modulo n: without r the label holder could tell from it what was multiplied with its ciphertexts."""
    weights, columns = sides
    n = int.from_bytes(weights.public.numpy().tobytes(), "little")
    sent = columns.summed(weights.sealed(torch.ones(2, 1)), torch.zeros(2, 1))
    assert int.from_bytes(sent.numpy().tobytes(), "little") % n != 1


BAD = [None, torch.zeros(3, 1, 10, dtype=torch.uint8), torch.zeros(4, 1, 256, dtype=torch.uint8), torch.zeros(3, 1, 256)]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_letters_of_another_kind_are_refused(sides, bad):
    weights, columns = sides
    with pytest.raises(CommunicationError, match="something other than"):
        columns.summed(bad, torch.ones(3, 2))
    with pytest.raises(CommunicationError, match="something other than"):
        weights.opened(bad)
    columns.summed(weights.sealed(torch.ones(3, 1)), torch.ones(3, 2))
    with pytest.raises(CommunicationError, match="something other than"):
        columns.revealed(bad)


@pytest.mark.parametrize("bad", [None, torch.zeros(128, dtype=torch.uint8), torch.full((128,), 255, dtype=torch.uint8) * 0 + 254])
def test_a_bad_key_is_refused(bad):
    with pytest.raises(CommunicationError, match="no key of 1024 bits"):
        Columns(bad)


def test_what_does_not_fit_is_refused(sides):
    weights, columns = sides
    with pytest.raises(CommunicationError, match="a gradient is not below 1024"):
        weights.sealed(torch.tensor([[float("nan")]]))
    with pytest.raises(CommunicationError, match="a column is not below 32768"):
        columns.summed(weights.sealed(torch.ones(1, 1)), torch.tensor([[40000.0]]))

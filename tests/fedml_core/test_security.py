"""Field, codes, shares and fixed-point numbers against Python's integers, and at the edges of their bounds."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from fedml_core.errors import ConfigError, DivergedError
from fedml_core.security import FixedPoint, PrimeField, additive_shares, coefficients, field, interpolate

LARGEST = 2**31 - 1
FIELDS = {p: PrimeField(p) for p in (2, 3, 5, 7, 31, 257, 65537, LARGEST)}
PRIMES = st.sampled_from(list(FIELDS))
quickly = hypothesis_settings(max_examples=50, deadline=None)


def elements(p, **bounds):
    """Lists of elements, the extreme ones often."""
    return st.lists(st.one_of(st.integers(0, p - 1), st.sampled_from([0, 1 % p, p - 1])), **bounds)


@quickly
@given(PRIMES.flatmap(lambda p: st.tuples(st.just(p), elements(p, min_size=4, max_size=4), elements(p, min_size=4, max_size=4))))
def test_arithmetic_is_that_of_integers_modulo_p(drawn):
    p, a, b = drawn
    of, x, y = FIELDS[p], torch.tensor(a), torch.tensor(b)
    assert of.add(x, y).tolist() == [(i + j) % p for i, j in zip(a, b, strict=True)]
    assert of.sub(x, y).tolist() == [(i - j) % p for i, j in zip(a, b, strict=True)]
    assert of.mul(x, y).tolist() == [i * j % p for i, j in zip(a, b, strict=True)]
    assert of.reduce(-x).tolist() == [-i % p for i in a]
    assert of.sum(torch.stack([x, y, y])).tolist() == [(i + 2 * j) % p for i, j in zip(a, b, strict=True)]
    assert of.power(x, b[0]).tolist() == [pow(i, b[0], p) for i in a]
    units = x[x > 0]
    assert of.inverse(units).tolist() == [pow(i, -1, p) for i in units.tolist()]


@quickly
@given(PRIMES, st.integers(1, 3), st.integers(0, 150), st.integers(1, 3), st.integers(0, 2**32))
def test_matrix_products_are_those_of_integers(p, rows, inner, columns, seed):
    draw = np.random.default_rng(seed)
    a, b = draw.integers(0, p, (rows, inner)), draw.integers(0, p, (inner, columns))
    expected = [[sum(int(a[i, k]) * int(b[k, j]) for k in range(inner)) % p for j in range(columns)] for i in range(rows)]
    assert FIELDS[p].matmul(torch.tensor(a), torch.tensor(b)).tolist() == expected


@pytest.mark.parametrize("inner", [1, 63, 64, 65, 128, 129, 1000])
def test_no_sum_of_largest_products_loses_a_unit(inner):
    """Left factors that make the high piece, the low piece, and both as large as they get."""
    of, right = PrimeField(), torch.full((inner, 1), LARGEST - 1)
    for left in (LARGEST - 1, (1 << field.LOW_BITS) - 1, LARGEST - (1 << field.LOW_BITS), (1 << 31) - (1 << field.LOW_BITS)):
        product = of.matmul(torch.full((1, inner), left), right)
        assert product.item() == inner * left * (LARGEST - 1) % LARGEST


def test_the_bounds_that_make_products_exact():
    largest_piece = max((1 << field.LOW_BITS) - 1, (LARGEST - 1) >> field.LOW_BITS)
    assert field.TERMS * largest_piece * (LARGEST - 1) < 2**53
    assert (LARGEST - 1 << field.LOW_BITS) + 2**53 < 2**63
    assert (LARGEST - 1) ** 2 < 2**63


@pytest.mark.parametrize(
    ("modulus", "says"), [(9, "not a prime"), (2**31 - 3, "not a prime"), (2**31 + 11, "2147483647"), (1, "2")]
)
def test_a_modulus_that_does_not_fit_is_refused(modulus, says):
    with pytest.raises(ConfigError, match=says):
        PrimeField(modulus)


def test_zero_has_no_inverse():
    with pytest.raises(ZeroDivisionError):
        PrimeField(7).inverse(torch.tensor([3, 0]))


@pytest.mark.parametrize(
    "sent",
    [None, 3, [1, 2], torch.zeros(2), torch.tensor([0, 7]), torch.tensor([-1, 0]), torch.tensor([[1, 2]]), torch.tensor([1])],
)
def test_what_is_no_vector_of_elements_is_known(sent):
    assert not PrimeField(7).holds(sent, (2,))
    assert PrimeField(7).holds(torch.tensor([0, 6], dtype=torch.int32), (2,))


def chi_squared(values, cells):
    counts = torch.bincount(values, minlength=cells).double()
    expected = len(values) / cells
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("p", [2, 5, 7, 257])
def test_expanded_elements_are_uniform(p):
    """Mean of chi-squared with p - 1 degrees of freedom: p - 1; ten standard deviations would be a fault, not chance."""
    found = PrimeField(p).expand(b"seed", 50_000)
    assert int(found.min()) == 0
    assert int(found.max()) == p - 1
    assert chi_squared(found, p) < (p - 1) + 4 * math.sqrt(2 * (p - 1))


def test_a_seed_is_expanded_by_shake_256():
    """Of words of 31 bits only 2^31 - 1 is left out, which is not among these."""
    words = np.frombuffer(hashlib.shake_256(b"seed" + bytes(8)).digest(24), "<u4") & 0x7FFFFFFF
    assert PrimeField().expand(b"seed", 2, 3).flatten().tolist() == words.tolist()
    assert PrimeField().expand(b"other", 6).tolist() != words.tolist()


def test_random_elements_come_from_the_operating_system(monkeypatch):
    """Words of 32 bits, of which 3 count; a 7 is no element of the field with 7, and another word is read for it."""
    stream = iter([7, 6, 8 + 7, 16 + 5, 8 + 1, 7, 0])
    read = []

    def urandom(length):
        read.append(length)
        return b"".join(next(stream).to_bytes(4, "little") for _ in range(length // 4))

    monkeypatch.setattr(field.os, "urandom", urandom)
    assert PrimeField(7).random(2, 2).tolist() == [[6, 5], [1, 0]]
    assert read == [16, 8, 4]


def lagrange(p, known, values, at):
    """The formula, in Python's integers."""
    total = 0
    for j, y in enumerate(values):
        for m, x in enumerate(known):
            if m != j:
                y = y * (at - x) * pow(known[j] - x, -1, p)
        total += y
    return total % p


@quickly
@given(st.sampled_from([31, 257, LARGEST]), st.integers(1, 8), st.integers(0, 2**32))
def test_interpolation_is_the_formula(p, count, seed):
    draw = np.random.default_rng(seed)
    known, at = draw.choice(30, count, replace=False).tolist(), draw.integers(0, 30, 3).tolist()
    values = draw.integers(0, p, (count, 2))
    found = interpolate(FIELDS[p], known, torch.tensor(values), at)
    columns = values.T.tolist()
    assert found.tolist() == [[lagrange(p, known, column, point) for column in columns] for point in at]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_any_values_in_sufficient_number_give_back_all_others(count):
    of, points = PrimeField(), range(1, 2 * count + 1)
    values = of.expand(b"values", count, 2)
    coded = interpolate(of, points[:count], values, points)
    assert torch.equal(coded[:count], values)
    for survivors in itertools.combinations(range(2 * count), count):
        back = interpolate(of, [points[i] for i in survivors], coded[list(survivors)], points)
        assert torch.equal(back, coded)
    if count > 1:  # one fewer, and the polynomial is another one
        assert not torch.equal(interpolate(of, points[: count - 1], coded[: count - 1], points), coded)


def test_points_that_are_one_are_refused():
    with pytest.raises(ValueError, match="must differ modulo 7"):
        coefficients(PrimeField(7), [1, 2, 8], [0])


def test_additive_shares_add_up_and_all_but_one_know_nothing():
    """All draws of a tiny field: any two of three shares take each pair of values once, whatever the secret."""
    p, of = 5, PrimeField(5)
    draws = [torch.tensor(pair)[:, None] for pair in itertools.product(range(p), repeat=2)]
    for secret in range(p):
        shares = [additive_shares(of, torch.tensor([secret]), 3, lambda *shape, r=r: r).flatten().tolist() for r in draws]
        assert {sum(three) % p for three in shares} == {secret}
        for left_out in range(3):
            seen = sorted(tuple(x for i, x in enumerate(three) if i != left_out) for three in shares)
            assert seen == sorted(itertools.product(range(p), repeat=2))


def test_shares_are_drawn_anew_each_time():
    secret = torch.arange(20)
    one, other = (additive_shares(PrimeField(), secret, 4) for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(PrimeField().sum(one), secret)


@pytest.mark.parametrize("p", [7, 257, LARGEST])
@pytest.mark.parametrize("parties", [1, 2, 3, 100])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_numbers_add_up_and_larger_ones_are_refused(p, parties, sign):
    of, code, draw = PrimeField(p), FixedPoint(bits=3, rounding="nearest"), np.random.default_rng(0)
    limit = sign * code.limit(of, parties)
    encoded = code.encode(of, torch.tensor([limit], dtype=torch.float64), parties, draw)
    total = of.sum(encoded.repeat(parties, 1))
    assert code.decode(of, total).item() == parties * limit
    with pytest.raises(ConfigError, match=rf"over {parties} clients: with bits = 3 modulo {p} it may be at most .* Lower bits"):
        code.encode(of, torch.tensor([limit + sign / 8], dtype=torch.float64), parties, draw)


def test_one_unit_beyond_the_bound_would_have_wrapped():
    of, code = PrimeField(7), FixedPoint(bits=0)
    assert code.limit(of, 1) == 3
    assert code.decode(of, of.reduce(torch.tensor([3, -3, 4]))).tolist() == [3, -3, -3]


@quickly
@given(st.lists(st.floats(-800, 800), min_size=1, max_size=20), st.integers(0, 16), st.sampled_from(["nearest", "stochastic"]))
def test_a_sum_is_off_by_the_rounding_of_each(numbers, bits, rounding):
    of, code, draw = FIELDS[LARGEST], FixedPoint(bits, rounding), np.random.default_rng(1)
    encoded = [code.encode(of, torch.tensor([x], dtype=torch.float64), len(numbers), draw) for x in numbers]
    found = code.decode(of, of.sum(torch.stack(encoded))).item()
    each = 2.0**-bits * (0.5 if rounding == "nearest" else 1.0)
    assert abs(found - math.fsum(numbers)) <= len(numbers) * each


def test_rounding_at_random_is_right_on_average():
    of, draw, count, x = PrimeField(), np.random.default_rng(2), 20_000, -1.3
    found = FixedPoint(bits=0).encode(of, torch.full((count,), x), 1, draw)
    values = FixedPoint(bits=0).decode(of, found)
    assert set(values.tolist()) == {-2.0, -1.0}
    assert abs(values.mean().item() - x) < 4 * math.sqrt(0.3 * 0.7 / count)
    nearest = FixedPoint(bits=0, rounding="nearest")
    assert set(nearest.decode(of, nearest.encode(of, torch.full((5,), x), 1, draw)).tolist()) == {-1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_refused(bad):
    with pytest.raises(DivergedError, match="not finite"):
        FixedPoint().encode(PrimeField(), torch.tensor([0.0, bad]), 3, np.random.default_rng(0))

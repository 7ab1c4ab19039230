"""Compressors: what they send, what arrives, and what they refuse."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedml_core import tree
from fedml_core.compression import Compress, Decompressing, Drive, NoCompression, Packed, Rotated, TernGrad, TopK, Uniform
from fedml_core.compression.packing import digits, pack, rotate, rotate_back, rotated_shape, unpack
from fedml_core.errors import ConfigError
from fedml_core.federation import Evaluate, LocalSGD, Reply, WeightedMean
from fedml_core.trainer import ModelState

PACKING = [Uniform(), Uniform(levels=3), Uniform(levels=16), Rotated(), TernGrad(), Drive(), TopK(), TopK(fraction=1.0)]
ALL = [NoCompression(), *PACKING]


def draws(number=0):
    return np.random.default_rng(number)


def vector(count, seed=0):
    return torch.from_numpy(draws(seed).normal(size=count).astype(np.float32))


def through(compressor, x, number=0, round=0):
    return compressor.decompress(compressor.compress(x, draws(number), round))


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 6, 7, 16, 17, 256])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_codes_come_back_out_of_fewer_bytes(levels, count):
    codes = torch.from_numpy(draws().integers(0, levels, count)).to(torch.uint8)
    packed = pack(codes, levels)
    width = {2: 8, 3: 5, 4: 4, 5: 3, 6: 3, 7: 2, 16: 2, 17: 1, 256: 1}[levels]
    assert packed.dtype is torch.uint8
    assert len(packed) == math.ceil(count / width)
    assert digits(levels) == width
    assert unpack(packed, levels, count).tolist() == codes.tolist()


def sylvester(order):
    matrix = np.ones((1, 1))
    while len(matrix) < order:
        matrix = np.kron([[1, 1], [1, -1]], matrix)
    return matrix / order**0.5


@pytest.mark.parametrize("count", [1, 2, 16])
def test_powers_of_two_are_rotated_by_signs_and_sylvesters_matrix(count):
    x, signs = vector(count), draws(3).integers(0, 2, count, dtype=np.int8) * 2 - 1
    np.testing.assert_allclose(rotate(x, draws(3)), sylvester(count) @ (signs * x.numpy()), atol=1e-6)


def test_other_lengths_are_rotated_by_a_product_of_a_hartley_and_a_hadamard_matrix():
    x, signs = vector(6), draws(3).integers(0, 2, 6, dtype=np.int8) * 2 - 1
    angle = 2 * np.pi * np.array([[0, 0, 0], [0, 1, 2], [0, 2, 4]]) / 3
    hartley = (np.cos(angle) + np.sin(angle)) / 3**0.5
    np.testing.assert_allclose(rotate(x, draws(3)), np.kron(hartley, sylvester(2)) @ (signs * x.numpy()), atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 6, 8, 33, 63, 65, 100, 128, 1000])
def test_a_rotation_can_be_undone_and_mixes_all_coordinates(count):
    x = vector(count)
    turned = rotate(x, draws(3))
    assert len(turned) == math.prod(rotated_shape(count))
    torch.testing.assert_close(rotate_back(turned, count, draws(3)), x)
    assert float(turned.norm()) == pytest.approx(float(x.norm()), rel=1e-5)
    spike = rotate(torch.eye(max(count, 1))[0], draws(3))
    assert float(spike.abs().max()) <= (2 / max(count, 1)) ** 0.5 + 1e-6


def test_rotating_adds_little():
    for count in [*range(1, 3000, 7), 10**6 + 1]:
        m, h = rotated_shape(count)
        assert m % 2 == 1
        assert m < 64
        assert h & (h - 1) == 0
        assert count <= m * h <= count * (1 + 1 / 31)
        if count < 64 or count & (count - 1) == 0:
            assert m * h == count


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
def test_the_uniform_quantizer_follows_the_definition(levels):
    """Suresh et al., section 2.2, in NumPy, from the same draws."""
    x = vector(200)
    low, high = float(x.min()), float(x.max())
    step = (high - low) / (levels - 1)
    below = np.minimum(np.floor((x.numpy() - low) / step), levels - 2)
    up = draws(5).random(200, dtype=np.float32) < (x.numpy() - low) / step - below
    np.testing.assert_allclose(through(Uniform(levels=levels), x, 5), low + (below + up) * step, atol=1e-5)


def test_points_of_the_grid_are_exact():
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0, 0.0])
    assert torch.equal(through(Uniform(levels=4), x), x)
    assert torch.equal(through(Uniform(), torch.full((9,), 0.3)), torch.full((9,), 0.3))


def test_terngrad_clips_and_has_three_levels():
    x = vector(1000)
    x[0] = 50.0
    scale = 2.5 * float(np.std(x.numpy()))
    found = through(TernGrad(), x)
    assert sorted(found.unique().tolist()) == pytest.approx([-scale, 0, scale], rel=1e-5, abs=1e-6)
    assert found[0].item() == pytest.approx(scale, rel=1e-5)
    tame = vector(1000).clamp(-1, 1)
    assert through(TernGrad(), tame).max().item() == pytest.approx(1.0)  # the largest is nearer than 2.5 sigma


@pytest.mark.parametrize(
    ("compressor", "count"),
    [(Uniform(levels=2), 60), (Uniform(levels=5), 60), (Rotated(levels=3), 60), (TernGrad(), 60), (Drive(), 1000)],
    ids=str,
)
def test_the_mean_of_many_draws_is_the_value(compressor, count):
    """Within four standard errors of each coordinate; TernGrad's value is the clipped one."""
    x, n = vector(count), 1000
    found = torch.stack([through(compressor, x, number=k, round=k) for k in range(n)]).double()
    bound = 2.5 * float(np.std(x.numpy())) if isinstance(compressor, TernGrad) else math.inf
    error = (found.mean(0) - x.clamp(-bound, bound)).abs() / (found.std(0) / n**0.5 + 1e-6)
    assert float(found.std(0).max()) > 0.1  # there is something to be unbiased about
    assert float(error.max()) < 4


def test_drive_has_one_magnitude_and_an_exact_projection():
    """Vargaftik et al., section 3: S = |x|^2 / |R x|_1 makes <x, x'> = |x|^2."""
    x = vector(100)
    sent = Drive().compress(x, draws(), 0)
    found = Drive().decompress(sent)
    assert float(found @ x) == pytest.approx(float(x @ x), rel=1e-4)
    assert float(found.norm()) == pytest.approx(float(sent.numbers[0]) * 10, rel=1e-4)
    assert len(sent.numbers) == 1


def test_drive_rotates_for_each_client_and_rotated_for_each_round():
    x = vector(64)
    assert Drive().compress(x, draws(0), 0).key != Drive().compress(x, draws(1), 0).key
    keys = [Rotated(seed=s).compress(x, draws(n), r).key for s, n, r in [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_two_tensors_of_a_reply_are_rotated_differently():
    x = vector(64)
    twice = through(Drive(), [x, x])
    assert not torch.equal(*twice)


def test_a_rotation_makes_spikes_cheap():
    """Suresh et al.: the error of few levels falls from O(d) to O(log d) where the range is that of a few coordinates."""
    x = 0.01 * vector(1000)
    x[:3] = torch.tensor([10.0, -10.0, 5.0])
    plain, rotated = (float((through(c, x) - x).norm()) for c in (Uniform(levels=4), Rotated(levels=4)))
    assert rotated < 0.3 * plain


@pytest.mark.parametrize(
    ("count", "fraction", "chosen", "bytes"), [(20, 0.1, 2, 1), (256, 0.01, 3, 1), (257, 0.01, 3, 2), (70_000, 1e-9, 1, 4)]
)
def test_topk_sends_the_largest_and_narrow_positions(count, fraction, chosen, bytes):
    x = vector(count)
    sent = TopK(fraction=fraction).compress({"x": x}, draws(), 0)
    assert (len(sent.numbers), len(sent.codes)) == (chosen, chosen * bytes)
    found = TopK(fraction=fraction).decompress(sent)["x"].numpy()
    largest = np.argsort(-np.abs(x.numpy()))[:chosen]
    wanted = np.zeros(count, np.float32)
    wanted[largest] = x.numpy()[largest]
    assert found.tolist() == wanted.tolist()


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_every_kind_of_tree_arrives_in_its_form(compressor):
    value = {
        "model": ModelState({"w": vector(12).view(3, 4), "half": vector(5).half()}, {"b": vector(6).double()}),
        "scalar": torch.tensor(0.1, dtype=torch.float64),
        "one": torch.tensor([[0.3]]),
        "whole": torch.arange(5),
        "empty": [torch.empty(3, 0), torch.empty(0, dtype=torch.int64)],
        "plain": ("text", 3, None),
    }
    before = tree.clone(value)
    found = through(compressor, value)

    def forms(of):
        return tree.map_tensors(lambda part: (str(part.dtype), tuple(part.shape)), of)

    assert forms(found) == forms(value)
    assert forms(compressor.outline(compressor.compress(value, draws(), 0))) == forms(value)
    assert all(torch.equal(found[name], value[name]) for name in ("scalar", "one", "whole"))
    assert tree.digest(value["model"]) == tree.digest(before["model"])
    if isinstance(compressor, NoCompression) or compressor == TopK(fraction=1.0):
        torch.testing.assert_close(tree.tensors(found), tree.tensors(value))


def test_levels_beyond_a_byte_are_refused():
    for wrong in (lambda: Uniform(levels=1), lambda: Rotated(levels=257), lambda: TopK(fraction=0.0), lambda: TopK(fraction=1.1)):
        with pytest.raises(ConfigError):
            wrong()


def sound(compressor):
    return compressor.compress(ModelState({"w": vector(300).view(30, 10)}, {"m": vector(4)}), draws(), 0)


def spoilt(sent):
    """What a device may send instead."""
    huge = sent.outline.params["w"].new_empty((1 << 30, 0))
    yield "nothing", None
    yield "a model", ModelState({"w": vector(300)}, {})
    yield "short codes", replace(sent, codes=sent.codes[:-1])
    yield "long numbers", replace(sent, numbers=torch.cat([sent.numbers, torch.ones(1)]))
    yield "other codes", replace(sent, codes=sent.codes.to(torch.int16))
    yield "other numbers", replace(sent, numbers=sent.numbers.double())
    yield "no vector", replace(sent, codes=sent.codes[None])
    yield "no tensor", replace(sent, numbers=3)
    yield "infinite", replace(sent, numbers=sent.numbers * math.inf)
    yield "key of text", replace(sent, key="key")
    yield "long key", replace(sent, key=1 << 63)
    yield "negative key", replace(sent, key=-1)
    yield "huge outline", replace(sent, outline=ModelState({f"w{i}": huge for i in range(1000)}, {}))


@pytest.mark.parametrize("compressor", PACKING, ids=str)
def test_what_is_not_packed_is_refused(compressor):
    model = ModelState({"w": torch.zeros(30, 10)}, {"m": torch.zeros(4)})
    task, sent = Compress(LocalSGD(), compressor), sound(compressor)
    assert task.objection(sent, model) is None
    for what, value in spoilt(sent):
        for look in (compressor.decompress, compressor.outline):
            with pytest.raises(ValueError, match=r"it is not packed|its parts|not finite|other codes"):
                look(value)
        assert "cannot be decompressed" in str(task.objection(value, model)), what
    other = compressor.compress({"w": vector(300)}, draws(), 0)
    assert task.objection(other, model) == "is not a change of the model"
    other = compressor.compress(ModelState({"w": vector(300)}, {"m": vector(4)}), draws(), 0)
    assert task.objection(other, model) == "has other parameters than the server's model"


def test_what_a_few_bytes_stand_for_is_looked_at_before_it_is_made():
    """Four terabytes of zeros, said in a kilobyte."""
    compressor = TopK(fraction=1e-9)
    outline = ModelState({f"w{i}": torch.empty(1 << 30, 0) for i in range(1 << 10)}, {})
    sent = Packed(outline, torch.zeros(4 << 10, dtype=torch.uint8), torch.zeros(1 << 10), 0)
    task = Compress(LocalSGD(), compressor)
    assert task.objection(sent, ModelState({"w": torch.zeros(3)}, {})) == "has other parameters than the server's model"


@pytest.mark.parametrize("positions", [[5, 200], [7, 7], [7, 5]])
def test_positions_out_of_order_or_place_are_refused(positions):
    outline = {"w": torch.empty(20, 0)}
    sent = Packed(outline, torch.tensor(positions, dtype=torch.uint8), torch.ones(2), 0)
    with pytest.raises(ValueError, match="positions"):
        TopK().decompress(sent)
    assert "positions" in str(Compress(Evaluate(), TopK()).objection(sent, None))


def test_numbers_that_overflow_are_refused():
    sent = replace(sound(Uniform()), numbers=torch.tensor([-3e38, 3e38] * 2))
    model = ModelState({"w": torch.zeros(30, 10)}, {"m": torch.zeros(4)})
    assert Compress(LocalSGD(), Uniform()).objection(sent, model) == "holds numbers that are not finite"


@pytest.mark.parametrize("compressor", ALL, ids=str)
def test_any_grouping_of_compressed_replies_folds_to_the_same(compressor):
    group = [Reply(compressor.compress({"x": vector(40, k)}, draws(k), 0), float(k + 1), {}) for k in range(6)]
    aggregator = Decompressing(WeightedMean(), compressor)

    def fold(replies):
        total = aggregator.zero()
        for reply in replies:
            total = aggregator.add(total, reply)
        return total

    together = aggregator.finish(fold(group))
    apart = aggregator.finish(aggregator.merge(fold(group[:2]), aggregator.merge(fold(group[2:2]), fold(group[2:]))))
    wanted = sum((k + 1) * compressor.decompress(reply.value)["x"] for k, reply in enumerate(group)) / 21
    assert (together.weight, apart.weight, together.clients, apart.clients) == (21, 21, 6, 6)
    torch.testing.assert_close(together.value["x"], wanted)
    torch.testing.assert_close(apart.value["x"], wanted)

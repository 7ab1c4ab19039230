import math

import numpy as np
import pytest
import torch

from fedml_core.errors import ConfigError
from fedml_core.partition import Noise, Rotation, feature_skews


def test_noise_has_its_variance_client_by_client():
    # Client k of K: variance sigma k / K (Li et al., ICDE 2022).
    x = torch.zeros(2000, 1, 5, 2)
    found = [float(Noise(0.4)(x, k, 5, 0, "train").var()) for k in range(5)]
    assert found == pytest.approx([0.4 * (k + 1) / 5 for k in range(5)], rel=5 * math.sqrt(2 / 20000))
    one = Noise(0.4)(x, 1, 5, 0, "train")
    assert float(one.mean()) == pytest.approx(0, abs=5 * 0.4 / math.sqrt(20000))
    assert torch.equal(one, Noise(0.4)(x, 1, 5, 0, "train"))
    others = [Noise(0.4)(x, 1, 5, 0, "test"), Noise(0.4)(x, 1, 5, 1, "train"), Noise(0.4)(x, 2, 5, 0, "train")]
    assert not any(torch.equal(one, other) for other in others)
    assert torch.equal(Noise(0.0)(x, 1, 5, 0, "train"), x)


def test_quarter_turns_move_pixels_counter_clockwise_and_change_none():
    x = torch.arange(18.0).reshape(1, 2, 3, 3)
    for client, name in enumerate(("0", "90", "180", "270")):
        wanted = np.rot90(x.numpy(), int(name) // 90, (2, 3))
        assert np.array_equal(Rotation()(x, client, 9, 0, "train").numpy(), wanted)
    assert torch.equal(Rotation()(x, 5, 9, 0, "train"), Rotation()(x, 1, 9, 0, "train"))  # round and round
    assert torch.equal(Rotation((-90.0,))(x, 0, 1, 0, "train"), Rotation((270.0,))(x, 0, 1, 0, "train"))


def test_other_angles_agree_with_quarter_turns_and_keep_to_the_picture():
    x = torch.rand(2, 1, 7, 7)
    assert torch.allclose(Rotation((90.001,))(x, 0, 1, 0, "train"), torch.rot90(x, 1, (2, 3)), atol=1e-3)
    # One bright pixel three to the right of the centre, turned by 45 degrees: its mass is up and to the right, as far away.
    x = torch.zeros(1, 1, 13, 13)
    x[0, 0, 6, 9] = 1.0
    turned = Rotation((45.0,))(x, 0, 1, 0, "train")[0, 0]
    rows, columns = torch.meshgrid(torch.arange(13.0), torch.arange(13.0), indexing="ij")
    place = [float((turned * axis).sum() / turned.sum()) - 6 for axis in (rows, columns)]
    assert place == pytest.approx([-3 / math.sqrt(2), 3 / math.sqrt(2)], abs=0.2)
    # A picture that is not square: distances count in pixels, not in sides.
    x = torch.zeros(1, 1, 9, 21)
    x[0, 0, 4, 13] = 1.0
    assert Rotation((90.0,))(x, 0, 1, 0, "train")[0, 0].argmax() == 1 * 21 + 10
    x = torch.zeros(1, 1, 9, 21)
    x[0, 0, 1, 10] = 1.0
    assert Rotation((90.0,))(x, 0, 1, 0, "train")[0, 0].argmax() == 4 * 21 + 7


def test_no_examples_are_none():
    assert Rotation((30.0,))(torch.zeros(0, 1, 4, 4), 0, 1, 0, "test").shape == (0, 1, 4, 4)
    assert Noise()(torch.zeros(0, 3), 0, 1, 0, "test").shape == (0, 3)


def test_what_cannot_be_turned_or_disturbed_says_why():
    with pytest.raises(ConfigError, match=r"inputs are float32 \[n, 5\], not images"):
        Rotation()(torch.zeros(2, 5), 0, 1, 0, "train")
    with pytest.raises(ConfigError, match="inputs are int64, not real numbers; leave skew out"):
        Noise()(torch.zeros(2, 5, dtype=torch.int64), 0, 1, 0, "train")
    for make in (lambda: Noise(-0.1), lambda: Noise(float("inf")), lambda: Rotation(()), lambda: Rotation((400.0,))):
        with pytest.raises(ConfigError):
            make()
    assert set(feature_skews) == {"noise", "rotation"}

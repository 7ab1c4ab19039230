import pytest

from fedml_core.errors import ConfigError
from fedml_core.partition import ColumnSplit

NAMES = ["a", "b", "c", "d", "e", "f", "g"]


def test_columns_are_dealt_evenly_by_number_or_by_fraction():
    assert ColumnSplit(3, order="given")(NAMES, 0) == {"0": ["a", "b", "c"], "1": ["d", "e"], "2": ["f", "g"]}
    assert ColumnSplit(2, (5, 2), "given")(NAMES, 0) == {"0": ["a", "b", "c", "d", "e"], "1": ["f", "g"]}
    assert [len(part) for part in ColumnSplit(2, (0.25, 0.75), "given")(NAMES, 0).values()] == [2, 5]
    assert ColumnSplit(2, (2, 2), "given", shared=("c",), drop=("a", "g"))(NAMES, 0) == {"0": ["b", "d", "c"], "1": ["e", "f", "c"]}


def test_a_random_order_is_the_seeds():
    draws = [ColumnSplit(2)(NAMES, seed) for seed in range(6)]
    assert draws[0] == ColumnSplit(2)(NAMES, 0)
    assert len({tuple(draw["0"]) for draw in draws}) > 1
    assert all(sorted(draw["0"] + draw["1"]) == NAMES for draw in draws)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parties": 1}, "parties = 1"),
        ({"sizes": (3.0,)}, "give one for each of 2 parties"),
        ({"sizes": (0.5, 0.4)}, r"fractions that sum to 1 \(not 0.9\)"),
        ({"sizes": (3, 3)}, "sizes sum to 6 columns, and 7 are dealt; change sizes, shared or drop"),
        ({"sizes": (0.01, 0.99)}, "7 columns are dealt to 2 parties, and party 0 gets none"),
        ({"parties": 8}, "7 columns are dealt to 8 parties, and party 7 gets none; lower parties"),
        ({"shared": ("x",)}, "column 'x' is not in the table; give some of: a, b"),
        ({"shared": ("a",), "drop": ("a",)}, "shared and drop both name a"),
    ],
)
def test_what_cannot_be_dealt_says_why(settings, message):
    with pytest.raises(ConfigError, match=message):
        ColumnSplit(**settings)(NAMES, 0)

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedml_core import tree


@tree.node
class Pair:
    left: object
    right: object


def example() -> object:
    return {"a": torch.tensor([1.0, 2.0]), "b": [Pair(torch.tensor(3.0), None), (torch.tensor([[4.0]]), "text", 5)]}


def test_arithmetic_against_its_definition():
    a, b = example(), tree.map_tensors(lambda t: t * 10, example())
    assert [t.tolist() for t in tree.tensors(tree.add(a, b, alpha=0.5))] == [[6.0, 12.0], 18.0, [[24.0]]]
    assert [t.tolist() for t in tree.tensors(tree.sub(b, a))] == [[9.0, 18.0], 27.0, [[36.0]]]
    assert [t.tolist() for t in tree.tensors(tree.scale(a, 2))] == [[2.0, 4.0], 6.0, [[8.0]]]
    assert tree.dot(a, b) == 10 * (1 + 4 + 9 + 16)
    assert tree.norm(a) == pytest.approx(30**0.5)
    assert tree.count(a) == 4
    tree.add_(a, b)
    assert [t.tolist() for t in tree.tensors(a)] == [[11.0, 22.0], 33.0, [[44.0]]]


def test_results_share_no_memory_with_their_inputs():
    a = example()
    for made in (tree.clone(a), tree.compact(a), tree.add(a, a), tree.scale(a, 1.0), tree.zeros_like(a)):
        tree.add_(made, made)
        assert [t.tolist() for t in tree.tensors(a)] == [[1.0, 2.0], 3.0, [[4.0]]]


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(),
    st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(torch.tensor),
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(), inner, max_size=3),
        st.builds(Pair, inner, inner),
    ),
)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Pair):
        return isinstance(b, Pair) and same(a.left, b.left) and same(a.right, b.right)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@given(trees)
def test_unpack_inverts_pack(original):
    structure, tensors = tree.pack(original)
    assert same(tree.unpack(structure, tensors), original)


@given(trees)
def test_every_tensor_has_a_path_of_its_own(original):
    assert len(tree.pack(original)[1]) == len(tree.tensors(original))


@pytest.mark.parametrize(
    "structure",
    [
        {"node": "Nobody", "fields": {}},
        {"node": "Pair", "fields": {"left": {"value": 1}}},
        {"tensor": "absent"},
        {"value": []},
        {"dict": []},
        {"list": {}},
        [],
        None,
        "x",
        {"__class__": "os.system"},
    ],
)
def test_unpack_refuses_what_pack_does_not_make(structure):
    with pytest.raises(ValueError, match=r"structure|fields"):
        tree.unpack(structure, {})


def test_pack_refuses_what_is_not_a_tree():
    with pytest.raises(TypeError, match=r"cannot hold a set \(at 'a/0'\)"):
        tree.pack({"a": [{1}]})
    with pytest.raises(TypeError, match="keys"):
        tree.pack({1: 2})


def test_digest_sees_values_names_types_and_shapes_but_not_order():
    base = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert tree.digest(base) == tree.digest({"b": torch.zeros(2), "a": torch.ones(2)})
    others = [
        {"a": torch.ones(2), "b": torch.tensor([0.0, 1e-45])},
        {"a": torch.ones(2), "c": torch.zeros(2)},
        {"a": torch.ones(2), "b": torch.zeros(2, dtype=torch.float64)},
        {"a": torch.ones(2), "b": torch.zeros(1, 2)},
        {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.zeros(2)},
    ]
    assert len({tree.digest(base), *map(tree.digest, others)}) == 1 + len(others)


def test_two_nodes_cannot_share_a_name():
    with pytest.raises(ValueError, match="Pair"):
        tree.node(type("Pair", (), {"__annotations__": {}, "__module__": "elsewhere"}))


def test_what_was_sent_has_lost_its_order_in_memory():
    image = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert not image.is_contiguous()
    sent = tree.compact({"image": image})["image"]
    assert sent.is_contiguous()
    assert torch.equal(sent, image)


def test_a_stack_and_what_is_taken_from_it():
    trees = [{"a": torch.full((2,), float(k)), "b": [torch.tensor(k), "text"], "c": None} for k in range(3)]
    stacked = tree.stack(trees)
    assert stacked["a"].shape == (3, 2)
    assert stacked["b"][0].tolist() == [0, 1, 2]
    found = list(tree.unstack(stacked, 3))
    assert [tree.digest(one) for one in found] == [tree.digest(one) for one in trees]
    assert found[1]["b"][1] == "text"
    found[1]["a"] += 1
    assert stacked["a"][1].tolist() == [1, 1]
    assert list(tree.unstack({"n": 1}, 2)) == [{"n": 1}] * 2

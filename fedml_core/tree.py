"""Trees of tensors: what travels between parties, what an algorithm keeps as state, what a checkpoint holds.

A tree is a tensor, a plain value (None, bool, int, float, str), or a dict with string keys, list, tuple, or `@node` dataclass of
trees. Arithmetic acts on the tensors and leaves plain values of the first tree untouched; it runs as one fused `_foreach` call
per operation. Functions whose name ends in `_` write into their first argument.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, dataclass_transform

import torch
from torch import Tensor

Tree = Any
N = TypeVar("N")

_nodes: dict[str, type] = {}
_fields: dict[type, tuple[str, ...]] = {}


@dataclass_transform(frozen_default=True)
def node(cls: type[N]) -> type[N]:
    """Class decorator: a frozen dataclass whose fields are trees. The set of nodes is closed: `unpack` makes nothing else."""
    known = _nodes.get(cls.__name__)
    # The same class again is a notebook cell run twice.
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"a tree node named {cls.__name__} exists already, in {known.__module__}: give this one another name")
    frozen: type[N] = dataclasses.dataclass(frozen=True, slots=True)(cls)
    _nodes[cls.__name__] = frozen
    _fields[frozen] = tuple(field.name for field in dataclasses.fields(frozen))  # type: ignore[arg-type]
    return frozen


def _children(tree: Tree) -> list[Tree] | None:
    """The direct subtrees, or None at a leaf."""
    kind = type(tree)
    if kind is dict:
        return list(tree.values())
    if kind is list or kind is tuple:
        return list(tree)
    if kind in _fields:
        return [getattr(tree, name) for name in _fields[kind]]
    return None


def _rebuild(like: Tree, children: list[Tree]) -> Tree:
    if type(like) is dict:
        return dict(zip(like, children, strict=True))
    return type(like)(children) if type(like) in (list, tuple) else type(like)(*children)


def map_tensors(function: Callable[..., Tree], tree: Tree, *others: Tree) -> Tree:
    """Apply `function` to each tensor of `tree` together with the tensors in the same places of `others`."""
    children = _children(tree)
    if children is not None:
        rest = [_children(other) or [] for other in others]
        return _rebuild(tree, [map_tensors(function, *parts) for parts in zip(children, *rest, strict=True)])
    return function(tree, *others) if isinstance(tree, Tensor) else tree


def tensors(tree: Tree) -> list[Tensor]:
    """All tensors, in the order of the tree."""
    found: list[Tensor] = []
    _collect(tree, found)
    return found


def _collect(tree: Tree, found: list[Tensor]) -> None:
    if isinstance(tree, Tensor):
        found.append(tree)
    else:
        for child in _children(tree) or ():
            _collect(child, found)


def replace_tensors(tree: Tree, new: list[Tensor]) -> Tree:
    """The same tree with `new` in place of its tensors, in the order `tensors` lists them."""
    supply = iter(new)
    return map_tensors(lambda _: next(supply), tree)


def stack(trees: Sequence[Tree]) -> Tree:
    """Like trees as one, whose tensors have a first dimension over them."""
    return replace_tensors(trees[0], [torch.stack(parts) for parts in zip(*map(tensors, trees), strict=True)])


def unstack(tree: Tree, count: int) -> Iterator[Tree]:
    """The `count` trees of a stack, in memory of their own, so that nobody who keeps one keeps them all."""
    parts = [tensor.unbind() for tensor in tensors(tree)]
    for k in range(count):
        yield replace_tensors(tree, [part[k].clone() for part in parts])


def clone(tree: Tree) -> Tree:
    """A copy that shares no memory with the original."""
    return map_tensors(lambda tensor: tensor.detach().clone(), tree)


def compact(tree: Tree) -> Tree:
    """As `clone`, with every tensor's numbers in the order of its indices: what arrives when a tree has been sent."""
    return map_tensors(lambda tensor: tensor.detach().clone(memory_format=torch.contiguous_format), tree)


def zeros_like(tree: Tree) -> Tree:
    return map_tensors(torch.zeros_like, tree)


def to(tree: Tree, device: torch.device | str) -> Tree:
    return map_tensors(lambda tensor: tensor.to(device), tree)


def add(a: Tree, b: Tree, alpha: float = 1.0) -> Tree:
    """a + alpha * b."""
    left = tensors(a)
    return replace_tensors(a, list(torch._foreach_add(left, tensors(b), alpha=alpha)) if left else [])


def sub(a: Tree, b: Tree) -> Tree:
    """a - b."""
    left = tensors(a)
    return replace_tensors(a, list(torch._foreach_sub(left, tensors(b))) if left else [])


def scale(a: Tree, factor: float) -> Tree:
    """factor * a."""
    left = tensors(a)
    return replace_tensors(a, list(torch._foreach_mul(left, factor)) if left else [])


def add_(a: Tree, b: Tree, alpha: float = 1.0) -> None:
    """a += alpha * b, in place."""
    left = tensors(a)
    if left:
        torch._foreach_add_(left, tensors(b), alpha=alpha)


def copy_(a: Tree, b: Tree) -> None:
    """a := b, in place."""
    left = tensors(a)
    if left:
        torch._foreach_copy_(left, tensors(b))


def dot(a: Tree, b: Tree) -> float:
    """The sum over all tensors of the elementwise products."""
    return math.fsum(float((x.double() * y.double()).sum()) for x, y in zip(tensors(a), tensors(b), strict=True))


def norm(a: Tree) -> float:
    """Euclidean norm of all tensors taken as one vector."""
    return math.sqrt(dot(a, a))


def count(a: Tree) -> int:
    """Number of scalars."""
    return sum(tensor.numel() for tensor in tensors(a))


def pack(tree: Tree) -> tuple[Any, dict[str, Tensor]]:
    """Split a tree into its structure, which is plain JSON data, and its tensors by path (`model/params/fc.weight`).

    `unpack` is the inverse. Keys are escaped so that a path is unique.
    """
    found: dict[str, Tensor] = {}
    return _pack(tree, "", found), found


def _pack(tree: Tree, path: str, found: dict[str, Tensor]) -> Any:
    def inside(name: object, child: Tree) -> Any:
        step = str(name).replace("\\", "\\\\").replace("/", "\\s")
        return _pack(child, f"{path}/{step}" if path else step, found)

    if isinstance(tree, Tensor):
        found[path] = tree.detach().contiguous()
        return {"tensor": path}
    if isinstance(tree, dict):
        if not all(isinstance(name, str) for name in tree):
            raise TypeError(f"keys of a tree's dicts are strings; at '{path}' they are {list(tree)[:3]}")
        return {"dict": {name: inside(name, child) for name, child in tree.items()}}
    if isinstance(tree, (list, tuple)):
        return {type(tree).__name__: [inside(i, child) for i, child in enumerate(tree)]}
    if type(tree) in _fields:
        fields = {name: inside(name, getattr(tree, name)) for name in _fields[type(tree)]}
        return {"node": type(tree).__name__, "fields": fields}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return {"value": tree}
    raise TypeError(f"a tree cannot hold a {type(tree).__name__} (at '{path}')")


def unpack(structure: Any, found: dict[str, Tensor]) -> Tree:
    """The tree that `pack` split.

    Raises:
        ValueError: the structure is not one that `pack` makes, names an unknown node, or a tensor is missing.
    """
    match structure:
        case {"tensor": str(path)} if path in found:
            return found[path]
        case {"dict": dict(children)}:
            return {name: unpack(child, found) for name, child in children.items()}
        case {"list": list(children)}:
            return [unpack(child, found) for child in children]
        case {"tuple": list(children)}:
            return tuple(unpack(child, found) for child in children)
        case {"node": str(name), "fields": dict(fields)} if name in _nodes:
            cls = _nodes[name]
            if set(_fields[cls]) != set(fields):
                raise ValueError(f"the fields of tree node {name} do not match: {sorted(fields)}")
            return cls(**{field: unpack(child, found) for field, child in fields.items()})
        case {"value": None | bool() | int() | float() | str() as value}:
            return value
    raise ValueError(f"not the structure of a tree: {reprlib.repr(structure)}")


def digest(tree: Tree) -> str:
    """SHA-256 over path, dtype, shape and little-endian bytes of every tensor, in order of path."""
    total = hashlib.sha256()
    for path, tensor in sorted(pack(tree)[1].items()):
        total.update(f"{path}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.cpu().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()

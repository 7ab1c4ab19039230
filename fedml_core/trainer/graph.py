"""Rewriting of a traced training step: straight-line code of tensor operations, made shorter without changing what it computes.

`trace` writes down what a computation did, operation by operation. Such a record is longer than need be: `vmap` leaves views that
change nothing, gradients are written out only to be subtracted, every result gets memory of its own. For models whose operations
take microseconds this is most of the time.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx

aten = torch.ops.aten

_RESHAPES = {aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten.expand.default}
_IDENTITIES = {aten.detach.default, aten.alias.default}
_IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.add.Tensor: aten.add_.Tensor,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.tanh.default: aten.tanh_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.neg.default: aten.neg_.default,
}
_PRODUCTS = {aten.mm.default: aten.addmm_.default, aten.bmm.default: aten.baddbmm_.default}
_TRANSPOSES = {aten.t.default, aten.transpose.int}
_FEW_CLASSES = 64
_SHORT = range(2**12, 2**18 + 1)  # multiplications in a product that NumPy may take; beyond that its BLAS starts threads of its own
# What tensors have a method for, of the same name and arguments: half the way through Python is saved.
_NAMES = (
    *("abs", "add.Tensor", "add_.Tensor", "addcmul", "addcmul_", "addmm", "addmm_", "amax", "baddbmm", "baddbmm_", "bmm", "clone"),
    *("detach", "div.Tensor", "div_.Tensor", "exp", "exp_", "expand", "gather", "log", "log_", "mm", "mul.Scalar", "mul.Tensor"),
    *(
        "mul_.Tensor",
        "neg",
        "neg_",
        "permute",
        "relu",
        "relu_",
        "scatter_add_",
        "sigmoid",
        "sigmoid_",
        "squeeze.dims",
        "sub.Tensor",
    ),
    *("scatter.value", "sub_.Tensor", "sum.dim_IntList", "t", "tanh", "tanh_", "transpose.int", "unsqueeze", "view"),
)
_METHODS = {getattr(getattr(aten, name), overload or "default"): name for name, _, overload in (n.partition(".") for n in _NAMES)}


def shorten(graph: fx.Graph, natural: Sequence[int] = ()) -> None:
    """All rewritings that leave every output what it is (random masks: in distribution).

    Args:
        natural: which inputs, by position, never hold a negative number.
    """
    _remove_identities(graph)
    if natural:
        _no_negatives(graph, natural)
        _remove_identities(graph)
    _add_products(graph)
    if numpy_is_fast():
        _short_products(graph)
    _short_softmax(graph)
    _short_sums(graph)
    _cheap_masks(graph)
    _pool_layout(graph)
    _reuse_memory(graph)
    graph.lint()


def descend(graph: fx.Graph, count: int) -> None:
    """Turn `(params..., rest...) -> (losses, gradients...)` into `(params..., rest..., step) -> losses` that moves the parameters.

    Each of the `count` parameters += step * its gradient, in place, as soon as nothing needs the old value any more. The gradient
    of a dense layer is a product of two small matrices: it is added to the weights as that product and never exists by itself.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    output = _output(graph)
    results: Any = output.args[0]
    losses, grads = results[0], list(results[1:])
    for i, grad in enumerate(grads):
        if _root(grad) in inputs:
            with graph.inserting_after(grad if grad not in inputs else inputs[-1]):
                grads[i] = graph.call_function(aten.clone.default, (grad,))
    with graph.inserting_after(inputs[-1]):
        step = graph.placeholder("step")
    for param, grad in zip(inputs[:count], grads, strict=True):
        place = {node: i for i, node in enumerate(graph.nodes)}
        readers = {user for alias in _aliases(param) for user in alias.users if user is not output}
        target, change, factors = param, grad, None
        alone = len(grad.users) == 1 and grads.count(grad) == 1
        if alone and grad.target in _TRANSPOSES and grad.args[0].target in _PRODUCTS and len(grad.args[0].users) == 1:
            change = grad.args[0]
        if alone and change.target in _PRODUCTS:
            factors = change.args
        last = max([param, step, *readers, *(factors or (grad,))], key=lambda node: place[node])
        with graph.inserting_after(last):
            if factors is None:
                graph.call_function(aten.add_.Tensor, (param, grad), {"alpha": step})
                continue
            if change is not grad:
                target = last = graph.call_function(grad.target, (param, *grad.args[1:]))
        with graph.inserting_after(last):
            graph.call_function(_PRODUCTS[change.target], (target, *factors), {"alpha": step})
    output.args = (losses,)
    graph.eliminate_dead_code(_impure)
    graph.lint()


def spell(graph: fx.Graph) -> None:
    """The last rewriting: call operations as methods of tensors, and with numbers for lists: Python's way there is shorter."""
    for node in list(graph.nodes):
        if node.target in _METHODS and isinstance(node.args[0], fx.Node):
            node.op, node.target = "call_method", _METHODS[node.target]
            first, *rest = cast("tuple[Any, ...]", node.args)
            if rest and isinstance(rest[0], (list, tuple)) and (node.target == "view" or len(rest[0]) == 1):
                node.args = (first, *rest[0], *rest[1:])
    graph.lint()


def value(node: Any) -> Any:
    """What was seen at a node when the graph was traced: a tensor of that shape, type and layout, without content."""
    return node.meta.get("val") if isinstance(node, fx.Node) else None


def _on_cpu(node: fx.Node) -> bool:
    return bool(node.meta["device"].type == "cpu")


def _output(graph: fx.Graph) -> fx.Node:
    found: fx.Node = next(node for node in graph.nodes if node.op == "output")
    return found


def _schema(node: fx.Node) -> Any:
    return node.target._schema if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) else None


def _impure(node: fx.Node) -> bool:
    schema = _schema(node)
    return node.op in ("placeholder", "output") or (schema is not None and schema.is_mutable)


def _is_view(node: fx.Node) -> bool:
    """Whether the result lies in the memory of an argument (a write in place returns its argument, and counts)."""
    if node.target is operator.getitem:
        return _is_view(node.args[0])  # type: ignore[arg-type]
    schema = _schema(node)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)


def _root(node: fx.Node) -> fx.Node:
    """The node in whose memory this one lies."""
    while _is_view(node) and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


def _aliases(node: fx.Node) -> list[fx.Node]:
    """The node and everything that lies in its memory."""
    found = [node]
    for alias in found:
        found.extend(user for user in alias.users if _is_view(user) and user not in found)
    return found


def _written(graph: fx.Graph) -> set[fx.Node]:
    """Nodes whose memory the model itself writes into: these keep their place and their order."""
    written: set[fx.Node] = set()
    for node in graph.nodes:
        schema = _schema(node)
        if schema is None or not schema.is_mutable:
            continue
        for source in node.all_input_nodes:
            written.update(_aliases(_root(source)))
    return written


def _instead(node: fx.Node, target: Any, args: Any, kwargs: Any = None) -> fx.Node:
    """Put another operation in the place of a node whose result is the same."""
    with node.graph.inserting_before(node):
        new = node.graph.call_function(target, args, kwargs)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
    return new


def _same_tensor(a: Any, b: Any) -> bool:
    return isinstance(a, Tensor) and isinstance(b, Tensor) and (a.shape, a.dtype, a.stride()) == (b.shape, b.dtype, b.stride())


def _stands_for(node: fx.Node) -> fx.Node | None:
    """An earlier node with the same value in the same layout, if this operation does nothing."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node):
        return None
    if node.target in _TRANSPOSES and source.target == node.target and source.args[1:] == node.args[1:]:
        return source.all_input_nodes[0]
    same = _same_tensor(value(node), value(source))
    if same and (node.target in _RESHAPES or node.target in _IDENTITIES):
        return source
    if same and node.target in (aten.mul.Scalar, aten.mul.Tensor) and type(node.args[1]) in (int, float) and node.args[1] == 1:
        return source
    return None


def _remove_identities(graph: fx.Graph) -> None:
    """Drop operations that do nothing, and compute what is asked for twice only once."""
    changed = True
    while changed:
        written, changed = _written(graph), False
        seen: dict[Any, fx.Node] = {}
        for node in list(graph.nodes):
            schema = _schema(node)
            if schema is None or schema.is_mutable or node in written or any(source in written for source in node.all_input_nodes):
                continue
            instead = _stands_for(node)
            if instead is None and torch.Tag.nondeterministic_seeded not in node.target.tags:
                key = (node.target, repr(node.args), repr(node.kwargs))
                instead = seen.setdefault(key, node)
            if instead is not None and instead is not node:
                node.replace_all_uses_with(instead)
                graph.erase_node(node)
                changed = True
        changed = graph.eliminate_dead_code(_impure) or changed


def _no_negatives(graph: fx.Graph, natural: Sequence[int]) -> None:
    """Drop the questions whether a label is -100, which `F.cross_entropy` leaves out of the loss, where no label is negative."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    known = {inputs[i] for i in natural}
    always = {
        node
        for node in graph.nodes
        if node.target == aten.ne.Scalar and node.args[1] < 0 and _root(node.all_input_nodes[0]) in known
    }
    for node in list(graph.nodes):
        if node.target == aten.where.self and node.args[0] in always and isinstance(node.args[1], fx.Node):
            chosen = node.args[1]
            if value(chosen).shape == value(node).shape and value(chosen).dtype == value(node).dtype:
                node.replace_all_uses_with(chosen)
                graph.erase_node(node)
    graph.eliminate_dead_code(_impure)


def _add_products(graph: fx.Graph) -> None:
    """Have a batched product add what is added to it, such as a bias."""
    for node in list(graph.nodes):
        if node.target != aten.add.Tensor or node.kwargs:
            continue
        for product, other in (node.args, node.args[::-1]):
            if not isinstance(product, fx.Node) or product.target != aten.bmm.default or not isinstance(other, fx.Node):
                continue
            if len(product.users) == 1 and value(product).shape == value(node).shape and value(product).dtype == value(other).dtype:
                _instead(node, aten.baddbmm.default, (other, *product.args))
                graph.erase_node(product)
                break


@cache
def numpy_is_fast() -> bool:
    """Whether NumPy multiplies short matrices with OpenBLAS on AVX-512, for which it has kernels, and torch's BLAS none as good."""
    known: Any = np.show_config(mode="dicts")
    blas = known.get("Build Dependencies", {}).get("blas", {}).get("name", "")
    return "openblas" in blas and "AVX512" in torch.backends.cpu.get_cpu_capability()


def short_product(left: Tensor, right: Tensor, added: Tensor | None = None) -> Tensor:
    """left @ right + added, matrix by matrix, in NumPy."""
    found = torch.from_numpy(np.matmul(left.numpy(), right.numpy()))
    return found if added is None else found.add_(added)


def _short_products(graph: fx.Graph) -> None:
    """Have NumPy multiply stacks of short matrices, as in the last layer of every classifier.

    Ten products `[10, 784] x [784, 10]` take 16 microseconds where `bmm` takes 54; see docs/performance.md for other shapes.
    """
    for node in list(graph.nodes):
        if node.target not in (aten.bmm.default, aten.baddbmm.default) or node.kwargs or not _on_cpu(node):
            continue
        *added, left, right = node.args
        (_, rows, inner), cols = value(left).shape, value(right).shape[2]
        known = all(value(one).dtype == torch.float32 and 1 in value(one).stride()[1:] for one in (left, right))
        if known and inner >= 128 and min(rows, cols) <= 16 and rows * inner * cols in _SHORT:
            _instead(node, short_product, (left, right, *added))


def _short_softmax(graph: fx.Graph) -> None:
    """Write out the log-softmax over a few classes on the CPU, and its gradient: torch's own goes through such rows one by one.

    z - max z - log(sum(exp(z - max z))), and g - exp(log-softmax) sum(g). If g is -w at the label and 0 elsewhere, as that of a
    cross entropy is, this is w times the softmax, less w at the label, and g need not be written down.
    """
    dim: Any
    for node in list(graph.nodes):
        seen = value(node)
        if node.target == aten._log_softmax.default:
            dim, source, dtype = node.args[1], node.args[0], seen.dtype
        elif node.target == aten._log_softmax_backward_data.default:
            dim, source, dtype = node.args[2], node.args[1], node.args[3]
        else:
            continue
        short = seen.dim() and dim % seen.dim() == seen.dim() - 1 and 0 < seen.shape[-1] <= _FEW_CLASSES
        precise = seen.dtype == dtype == value(source).dtype and dtype in (torch.float32, torch.float64)
        if not short or not _on_cpu(node) or not precise:
            continue
        rows, one = seen.new_empty(seen.shape, device="meta"), seen.new_empty((*seen.shape[:-1], 1), device="meta")

        def emit(target: Any, *args: Any, like: Tensor = rows, **named: Any) -> fx.Node:
            with graph.inserting_before(node):  # noqa: B023  (called in this pass of the loop only)
                new = graph.call_function(target, args, named)
            new.meta = {"val": like}
            return new

        if node.target == aten._log_softmax.default:
            shifted = emit(aten.sub.Tensor, source, emit(aten.amax.default, source, [-1], True, like=one))
            total = emit(aten.sum.dim_IntList, emit(aten.exp.default, shifted), [-1], True, like=one)
            result = emit(aten.sub_.Tensor, shifted, emit(aten.log_.default, total, like=one))
        elif (found := _at_label(node.args[0])) is not None and len(node.args[0].users) == 1:
            labels, factor = found
            share = emit(aten.mul_.Tensor, emit(aten.exp.default, source), factor)
            result = emit(aten.scatter_add_.default, share, -1, labels, emit(aten.neg.default, factor, like=one))
        else:
            total = emit(aten.sum.dim_IntList, node.args[0], [-1], True, like=one)
            result = emit(aten.addcmul.default, node.args[0], emit(aten.exp.default, source), total, value=-1)
        result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        graph.erase_node(node)
    graph.eliminate_dead_code(_impure)


def _short_sums(graph: fx.Graph) -> None:
    """Have a sum drop the dimensions it has summed over, where a view does so afterwards."""
    for node in list(graph.nodes):
        total = node.args[0] if node.target == aten.view.default else None
        if not isinstance(total, fx.Node) or total.target != aten.sum.dim_IntList or len(total.users) > 1 or total.kwargs:
            continue
        source, dims, *keep = cast("tuple[Any, ...]", total.args)
        if keep == [True] and dims and _same_tensor(value(total).squeeze(tuple(dims)), value(node)):
            _instead(node, aten.sum.dim_IntList, (source, dims))
            graph.erase_node(total)


def _at_label(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """(labels, w) if the node is -w at one label per row and 0 elsewhere, with labels and w of one shape `[..., 1]`."""
    if node.target != aten.mul.Tensor:
        return None
    either: Any = node.args
    for spread, factor in (either, either[::-1]):
        if not isinstance(spread, fx.Node) or not isinstance(factor, fx.Node) or spread.target != aten.scatter.value:
            continue
        zeros, dim, labels, number = cast("tuple[Any, ...]", spread.args)
        seen, weights = value(spread), value(factor)
        alike = weights.shape == value(labels).shape == (*seen.shape[:-1], 1) and weights.dtype == seen.dtype
        if alike and zeros.target == aten.zeros_like.default and dim in (-1, seen.dim() - 1) and number == -1:
            return labels, factor
    return None


def keep_with_probability(shape: Sequence[int], stride: Sequence[int], keep: float) -> Tensor:
    """Ones with probability `keep` (to a multiple of 2^-16), else zeros: float32 of this shape and layout, from torch's generator.

    Four elements are drawn from each 64 random bits, which is several times as fast as `bernoulli_`.
    """
    size = math.prod(shape)
    bits = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:size]
    mask = torch.empty(size)
    threshold = round(keep * 2**16) - 2**15
    if threshold < 2**15:
        torch.lt(bits, threshold, out=mask)
    else:
        mask.fill_(1.0)
    return mask.as_strided(shape, stride)


def _cheap_masks(graph: fx.Graph) -> None:
    """Draw dropout masks on the CPU by `keep_with_probability`, in the layout of what they are multiplied with."""
    for node in list(graph.nodes):
        seen = value(node)
        if node.target != aten.bernoulli.p or not isinstance(seen, Tensor) or not _on_cpu(node) or seen.dtype != torch.float32:
            continue
        stride = seen.stride()
        for user in (u for alias in _aliases(node) for u in alias.users if u.target == aten.mul.Tensor):
            other = value(user.args[0])
            if isinstance(other, Tensor) and other.shape == seen.shape and _dense(other):
                stride = other.stride()
        with graph.inserting_before(node):
            mask = graph.call_function(keep_with_probability, (tuple(seen.shape), tuple(stride), node.args[1]))
        mask.meta = dict(node.meta, val=torch.empty_strided(seen.shape, stride, device="meta"))
        node.replace_all_uses_with(mask)
        graph.erase_node(node)
    graph.eliminate_dead_code(_impure)


def _dense(tensor: Tensor) -> bool:
    """Whether the elements fill a block of memory without gaps or overlaps, in whatever order."""
    expected = 1
    for stride, length in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= length
    return True


def _pool_layout(graph: fx.Graph) -> None:
    """Hand max-pooling's backward its gradient in the layout of its input: else it copies input-sized tensors back and forth."""
    for node in list(graph.nodes):
        if node.target != aten.max_pool2d_with_indices_backward.default:
            continue
        grad, source = node.args[0], node.args[1]
        layout = torch.channels_last
        if value(source).is_contiguous(memory_format=layout) and not value(grad).is_contiguous(memory_format=layout):
            with graph.inserting_before(node):
                turned = graph.call_function(aten.clone.default, (grad,), {"memory_format": layout})
            turned.meta = {"val": value(grad).contiguous(memory_format=layout)}
            node.update_arg(0, turned)


def _reuse_memory(graph: fx.Graph) -> None:
    """Write elementwise results over an argument that nothing needs any more."""
    written = _written(graph)
    place = {node: i for i, node in enumerate(graph.nodes)}
    outputs = {_root(node) for node in _output(graph).all_input_nodes}
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        masked = node.target == aten.threshold_backward.default
        if not (masked or node.target in _IN_PLACE) or not isinstance(source, fx.Node):
            continue
        root = _root(source)
        aliases = _aliases(root)
        if root.op != "call_function" or root in outputs or root in written or not _same_tensor(value(source), value(node)):
            continue
        if any(place[user] > place[node] for alias in aliases for user in alias.users):
            continue
        if any(other is not source and other in aliases for other in node.all_input_nodes):
            continue
        if masked:
            new = _instead(node, aten.threshold_backward.grad_input, node.args, {"grad_input": source})
        else:
            new = _instead(node, _IN_PLACE[node.target], node.args, node.kwargs)
        place[new] = place[node]

"""Tracing: the tensor operations of a function, written down while it runs on example inputs.

`torch.fx.experimental.proxy_tensor.make_fx` does the same for many more purposes, and imports torch's compiler for them: a second
before the first step.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._functorch import eager_transforms
from torch.autograd import Variable
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten


def trace(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> fx.GraphModule:
    """What `function(*inputs)` computes, below autograd and the transforms of `torch.func`, as a graph of operations.

    Every node's `meta` has `val`, a tensor without content of the shape, the type and the layout that was seen, and `device`.
    Tensors that are neither inputs nor made from them become attributes of the module, which it shares with whoever owns them.
    Torch's generators are left as they were: a run that goes on from a checkpoint traces in another round than the whole one.

    Raises:
        RuntimeError: Python asks for the value of a tensor that depends on an input, or is random.
    """
    tape, devices = _Tape(), {tensor.device for tensor in inputs if tensor.device.type == "cuda"}
    for number, tensor in enumerate(inputs):
        tape.note(tape.graph.placeholder(f"input_{number}"), tensor)
    cached = torch.is_autocast_cache_enabled()
    # Casts that autocast remembers from before would be missing.
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.random.fork_rng(devices), _without_compiler(), tape:
            outputs = function(*inputs)
    finally:
        torch.set_autocast_cache_enabled(cached)
    tape.graph.output(tuple(tape.node(tensor) for tensor in outputs))
    return fx.GraphModule(tape.constants, tape.graph)


class _Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Appends what is carried out to a graph."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph, self.constants = fx.Graph(), nn.Module()
        self._nodes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """False: torch would import its compiler, only to tell it to leave `__torch_dispatch__` alone."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        with self:
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        nodes: list[fx.Node] = []

        def node_of(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            nodes.append(self.node(value))
            return nodes[-1]

        placed, named = map_aggregate(args, node_of), map_aggregate(kwargs, node_of)
        fixed = bool(nodes) and all(node.meta.get("fixed") for node in nodes) and torch.Tag.nondeterministic_seeded not in func.tags
        if torch.Tag.data_dependent_output in func.tags:
            if not fixed:
                raise RuntimeError(f"{func} asks for the value of a tensor: data-dependent control flow, or the like")
            return func(*args, **kwargs)
        # What `torch.tensor` has made becomes an attribute, which must not be written into.
        func = aten.lift_fresh_copy.default if func is aten.lift_fresh.default else func
        node = self.graph.create_node("call_function", func, placed, named, name=func.overloadpacket.__name__)
        results = func(*args, **kwargs)
        self.note(node, results, fixed)
        return results

    def note(self, node: fx.Node, found: Any, fixed: bool = False) -> None:
        """`found` is what the node has computed; `fixed`, whether it is the same whatever the inputs are."""
        if isinstance(found, Tensor):
            val = torch.empty_strided(found.shape, found.stride(), dtype=found.dtype, device="meta")
            node.meta = {"val": val, "device": found.device, "fixed": fixed}
            self._nodes[found] = node
        elif isinstance(found, (list, tuple)):
            for number, part in enumerate(found):
                self.note(self.graph.call_function(operator.getitem, (node, number)), part, fixed)

    def node(self, tensor: Tensor) -> fx.Node:
        """The node that has computed this tensor, or that of an attribute."""
        if tensor not in self._nodes:
            name = f"constant_{len(list(self.constants.buffers()))}"
            self.constants.register_buffer(name, tensor)
            self.note(self.graph.get_attr(name), tensor, fixed=True)
        found: fx.Node = self._nodes[tensor]
        return found


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Keep torch from importing its compiler, only to tell it to stand aside, and sympy, to learn that True is true.

    Where the compiler is imported, all is left as it is.
    """
    replaced = [
        (owner, name, getattr(owner, name), ours)
        for owner, name, ours in ((eager_transforms, "_autograd_grad", _gradients), (torch, "_check_with", _check))
        if hasattr(owner, name) and "torch._dynamo" not in sys.modules
    ]
    for owner, name, _, ours in replaced:
        setattr(owner, name, ours)
    try:
        yield
    finally:
        for owner, name, usual, _ in replaced:
            setattr(owner, name, usual)


_usual_check: Any = getattr(torch, "_check_with", None)


def _check(error: type[Exception], condition: Any, message: Any) -> None:
    """`torch._check_with`, which imports the compiler's symbolic shapes even where a condition is a plain True."""
    if condition is not True:
        _usual_check(error, condition, message)


def _gradients(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor],
    grad_outputs: Sequence[Tensor] | None = None,
    retain_graph: bool = False,
    create_graph: bool = True,
) -> tuple[Tensor, ...]:
    """`torch.autograd.grad` in which zeros stand for what does not depend on the inputs, or they on it."""
    along: Sequence[Tensor | None] = [None] * len(outputs) if grad_outputs is None else grad_outputs
    pairs = [(output, grad) for output, grad in zip(outputs, along, strict=True) if output.requires_grad]
    found: Sequence[Tensor | None] = [None] * len(inputs)
    if pairs:
        of, weights = zip(*pairs, strict=True)
        if all(grad is not None and (grad.shape, grad.dtype) == (output.shape, output.dtype) for output, grad in pairs):
            # The engine itself: `grad` asks sympy whether equal shapes are equal.
            found = Variable._execution_engine.run_backward(of, weights, retain_graph, create_graph, tuple(inputs), True, False)
        else:
            found = torch.autograd.grad(of, inputs, weights, retain_graph, create_graph, allow_unused=True)
    return tuple(torch.zeros_like(one) if grad is None else grad for one, grad in zip(inputs, found, strict=True))

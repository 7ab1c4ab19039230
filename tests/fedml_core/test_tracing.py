"""Traces against those of torch's own `make_fx`, which is the slow way to the same record."""

import subprocess
import sys

import pytest
import torch
from torch.func import grad, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from fedml_api.model import ReddiCNN, WordLSTM
from fedml_core.trainer import Classifier, NextToken, graph, traced
from fedml_core.trainer.tracing import trace
from tests.fedml_core.test_traced import IMAGE, NETWORKS, params_of


def operations(module):
    module.graph.eliminate_dead_code(graph._impure)
    return [str(node.target) for node in module.graph.nodes if node.op == "call_function"]


@pytest.fixture
def twins(monkeypatch):
    """Every step that is traced is traced both ways; the operations of each."""
    found = []

    def both(function, *inputs):
        ours = trace(function, *inputs)
        found.append((operations(ours), operations(make_fx(function)(*inputs))))
        return ours

    monkeypatch.setattr(traced, "trace", both)
    return found


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("name", [*NETWORKS, "dropout"])
def test_the_same_operations_as_make_fx(twins, name, stacked):
    module = (NETWORKS | {"dropout": lambda: ReddiCNN().build(IMAGE, 3)})[name]().train()
    params, batch, weights = params_of(module), {"x": torch.randn(4, *IMAGE), "y": torch.tensor([0, 1, 2, 0])}, torch.ones(4)
    if stacked:
        params = [torch.stack([part] * 2) for part in params]
        batch, weights = {column: torch.stack([part] * 2) for column, part in batch.items()}, torch.ones(2, 4)
    traced.TracedStep(Classifier(), module, params, batch, weights, stacked)
    ours, theirs = twins[0]
    assert ours == theirs


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_same_operations_as_make_fx_for_a_recurrent_network(twins, precision):
    """It has a frozen parameter, which is no input, and casts, which autocast would remember."""
    module = WordLSTM(4, 6).build((7,), 11)
    batch = {"x": torch.randint(0, 11, (3, 7)), "y": torch.randint(0, 11, (3, 7))}
    traced.TracedStep(NextToken(), module, params_of(module), batch, torch.ones(3), False, precision)
    ours, theirs = twins[0]
    assert ours == theirs
    assert len(ours) > 500


def test_what_is_no_input_is_shared_and_what_is_written_out_in_python_is_copied():
    outside = torch.ones(3)

    def function(x):
        own = torch.tensor([1.0, 2.0, 3.0])
        own += x
        return own * outside, x.sort().values

    again = trace(function, torch.ones(3))
    outside.fill_(2.0)
    for _ in range(2):
        product, ordered = again(torch.tensor([3.0, 1.0, 2.0]))
        assert product.tolist() == [8, 6, 10]
        assert ordered.tolist() == [1, 2, 3]


def test_values_of_inputs_and_of_draws_cannot_be_asked_for_but_those_of_numbers_can():
    for function in (lambda x: (x * x.sum().item(),), lambda x: (x * torch.rand(1).item(),)):
        with pytest.raises(RuntimeError, match="data-dependent"):
            trace(function, torch.ones(2))
    traced_once = trace(lambda x: (x * (torch.tensor(2.0) + 1).item(),), torch.ones(2))
    assert traced_once(torch.tensor([1.0, 5.0]))[0].tolist() == [3, 15]


def test_after_a_failure_all_is_as_before():
    with pytest.raises(RuntimeError, match="size mismatch"):
        trace(lambda x: (x @ torch.ones(7),), torch.ones(2, 2))
    assert torch.is_autocast_cache_enabled()
    assert trace(vmap(lambda x: (x + 1,)), torch.ones(2))(torch.zeros(2))[0].tolist() == [1, 1]


SCRIPT = """
import sys
import torch
from fedml_core.trainer import Classifier
from fedml_core.trainer.traced import TracedStep
module = torch.nn.Linear(4, 3)
params = [torch.stack([part.detach()] * 2) for part in module.parameters()]
batch = {"x": torch.ones(2, 5, 4), "y": torch.zeros(2, 5, dtype=torch.int64)}
step = TracedStep(Classifier(), module, params, batch, torch.ones(2, 5), True)
step.descend(params, batch, torch.ones(2, 5), 0.1)
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])
# What is left out is used again where it is there.
import torch._dynamo
again = TracedStep(Classifier(), module, params, batch, torch.ones(2, 5), True)
print(again.code == step.code)
"""


def test_tracing_imports_neither_the_compiler_nor_sympy():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "True"]


def test_gradients_of_what_has_none_are_zeros_without_the_compiler(request):
    """`torch.func.vjp` while the compiler is kept out, against itself: y has no part in the second result, x in neither."""

    def function(x, y):
        results, back = vjp(lambda x, y: (x.detach() * y, x.detach()), x, y)
        return *results, *back((x, y))

    inputs = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    wanted = function(*inputs)
    request.getfixturevalue("without_compiler")
    torch.testing.assert_close(tuple(trace(function, *inputs)(*inputs)), wanted)
    assert [part.tolist() for part in wanted[2:]] == [[0, 0], [1, 4]]


@pytest.fixture
def without_compiler(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)


@pytest.mark.parametrize("seed", [torch.ones(3), torch.ones(2, dtype=torch.complex64)])
def test_a_cotangent_that_does_not_fit_is_refused_without_the_compiler(without_compiler, seed):
    with pytest.raises(RuntimeError, match=r"shape|dtype"):
        trace(lambda x: vjp(lambda x: x * x, x)[1](seed), torch.ones(2))


def test_scalars_need_no_cotangent_without_the_compiler(without_compiler):
    traced = trace(lambda x: (grad(lambda x: (x * x).sum())(x),), torch.ones(2))
    assert traced(torch.tensor([3.0, 4.0]))[0].tolist() == [6.0, 8.0]


def test_what_torch_checks_is_checked_without_the_compiler(without_compiler):
    def function(x):
        torch._check(x.dim() == 1, lambda: "x must be a vector")
        return (x * 2,)

    assert trace(function, torch.ones(2))(torch.ones(2))[0].tolist() == [2.0, 2.0]
    with pytest.raises(RuntimeError, match="x must be a vector"):
        trace(function, torch.ones(2, 2))

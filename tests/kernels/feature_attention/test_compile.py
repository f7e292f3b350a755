"""torch.compile, torch.export, tracing, meta tensors."""

import warnings

import pytest
import torch

from ganfuse.kernels import feature_attention, scaled_dot_product_attention, use_backend
from tests.kernels.feature_attention.problems import Problem, check, make_inputs, ours

PROBLEM = Problem(2, 3, 5, (3, 4), (2, 3))


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _compile(function, **options):
    return torch.compile(function, fullgraph=True, backend="aot_eager", **options)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_forward_and_first_backward(backend, layout):
    check(_compile(ours(backend)), ours("reference"), make_inputs(PROBLEM, torch.float64, layout), order=1)


def test_between_other_operations(backend):
    """As a layer has it: convolutions of one input around it, a learnt factor, a residual."""
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    weights = [torch.randn(c, 4, 1, 1, requires_grad=True) for c in (3, 3, 4)]
    gamma = torch.tensor(0.5, requires_grad=True)

    def layer(which):
        def block(x, gamma, *weights):
            q, k, v = (torch.nn.functional.conv2d(x, w) for w in weights)
            return x + gamma * feature_attention(q, torch.nn.functional.max_pool2d(k, 2),
                                                 torch.nn.functional.max_pool2d(v, 2), backend=which)  # fmt: skip

        return block

    leaves = (x, gamma, *weights)
    results = []
    for block in (_compile(layer(backend)), layer("reference")):
        output = block(*leaves)
        results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_token_lists(backend):
    q, k, v = (torch.randn(2, n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 7, 7))

    def attend(which):
        return lambda *x: scaled_dot_product_attention(*x, is_causal=True, backend=which)

    check(_compile(attend(backend)), attend("reference"), (q, k, v), order=1)


def test_other_shapes_of_the_same_function(backend):
    """The second shape makes Dynamo trace with symbolic sizes."""
    compiled = _compile(lambda q, k, v: feature_attention(q, k, v, backend=backend))
    for side in (3, 4, 5):
        check(compiled, ours("reference"), make_inputs(Problem(2, 3, 5, (side, 4), (2, side))), order=1)


def test_scale_that_is_an_argument(backend):
    compiled = _compile(lambda q, k, v, scale: feature_attention(q, k, v, scale=scale, backend=backend))
    inputs = make_inputs(PROBLEM)
    for scale in (0.5, 0.25, 2.0):
        torch.testing.assert_close(compiled(*inputs, scale), ours("reference", scale)(*inputs))


def test_everything_dynamic(backend):
    inputs = make_inputs(PROBLEM)
    compiled = _compile(lambda q, k, v: feature_attention(q, k, v, scale=0.5, backend=backend), dynamic=True)
    other = _compile(ours(backend, 0.5), dynamic=True)
    check(compiled, ours("reference", 0.5), inputs, order=1)
    check(other, ours("reference", 0.5), inputs, order=1)


def test_choice_of_use_backend_is_seen():
    inputs = make_inputs(PROBLEM)
    graphs = []

    def keep(graph, _):
        graphs.append({str(node.target) for node in graph.graph.nodes if node.op == "call_function"})
        return graph.forward

    compiled = torch.compile(lambda *x: feature_attention(*x), fullgraph=True, backend=keep)
    with use_backend("reference"):
        compiled(*inputs)
    with use_backend("eager"):
        compiled(*inputs)
    assert not any("ganfuse" in target for target in graphs[0])
    assert any("ganfuse" in target for target in graphs[1])


@pytest.mark.parametrize("compiler", ["aot_eager", "eager"])
def test_second_derivative_through_a_compiled_function_is_right_or_raises(backend, compiler):
    inputs = make_inputs(PROBLEM)
    compiled = torch.compile(ours(backend), fullgraph=True, backend=compiler)

    def penalty(attend):
        first = torch.autograd.grad(attend(*inputs).sin().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    expected = penalty(ours("reference"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = compiled(*inputs)
        try:
            first = torch.autograd.grad(output.sin().sum(), inputs, create_graph=True)
            actual = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
        except RuntimeError:
            return
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


class _Attention(torch.nn.Module):
    def forward(self, query, key, value):
        return feature_attention(query, key, value)


def test_export_takes_the_reference(backend):
    inputs = tuple(x.detach() for x in make_inputs(PROBLEM))
    with use_backend(backend):
        program = torch.export.export(_Attention(), inputs)
    assert not any("ganfuse" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*inputs), ours("reference")(*inputs))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*:DeprecationWarning")
def test_tracing_takes_the_reference(backend):
    inputs = tuple(x.detach() for x in make_inputs(PROBLEM))
    with use_backend(backend):
        graph = str(torch.jit.trace(_Attention(), inputs).inlined_graph)
    assert "ganfuse::" not in graph
    assert "aten::softmax" in graph


@pytest.mark.parametrize("which", [None, "auto", "reference"])
def test_meta_tensors(which):
    """Building a model on the meta device and running it for its shapes."""
    q, k, v = (x.detach().to("meta") for x in make_inputs(PROBLEM))
    assert feature_attention(q, k, v, backend=which).shape == (2, 5, 3, 4)
    with torch.device("meta"):
        assert feature_attention(q, k, v, backend=which).is_meta

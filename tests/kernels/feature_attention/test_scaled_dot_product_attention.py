"""The token-list front against torch.nn.functional's function."""

import functools

import pytest
import torch
import torch.nn.functional as F

from ganfuse.kernels import feature_attention, scaled_dot_product_attention
from ganfuse.kernels.feature_attention import tokens
from tests.kernels.feature_attention.problems import check

MATH = torch.nn.attention.SDPBackend.MATH


def _tokens(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def _both(backend, **options):
    def theirs(*inputs):
        with torch.nn.attention.sdpa_kernel(MATH):
            return F.scaled_dot_product_attention(*inputs, **options)

    return functools.partial(scaled_dot_product_attention, backend=backend, **options), theirs


@pytest.mark.parametrize(
    "lead",
    [((),) * 3, ((3,),) * 3, ((2, 3),) * 3, ((2, 1, 3),) * 3, ((2, 1), (1, 3), (2, 3)), ((), (2,), (3, 1))],
    ids=str,
)
@pytest.mark.parametrize("is_causal", [False, True])
def test_leading_dimensions(backend, lead, is_causal):
    sizes = ((5, 4), (7, 4), (7, 6))
    inputs = tuple(_tokens(*some, *size) for some, size in zip(lead, sizes))
    ours, theirs = _both(backend, is_causal=is_causal)
    assert ours(*inputs).shape == theirs(*inputs).shape
    check(ours, theirs, inputs)


def test_batch_of_none(backend):
    q, k, v = _tokens(0, 3, 5, 4), _tokens(0, 3, 7, 4), _tokens(0, 3, 7, 6)
    output = scaled_dot_product_attention(q, k, v, backend=backend)
    assert output.shape == (0, 3, 5, 6)
    first = torch.autograd.grad(output.sum(), (q, k, v), create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), (q, k, v))
    assert [g.shape for g in second] == [x.shape for x in (q, k, v)]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 20), (20, 1), (35, 18), (18, 35), (33, 33), (32, 16)])
def test_causal(backend, queries, keys):
    ours, theirs = _both(backend, is_causal=True)
    check(ours, theirs, (_tokens(2, queries, 4), _tokens(2, keys, 4), _tokens(2, keys, 5)))


@pytest.mark.parametrize("scale", [None, 0.3, -0.3])
def test_scale(backend, scale):
    ours, theirs = _both(backend, scale=scale)
    check(ours, theirs, (_tokens(2, 5, 9), _tokens(2, 6, 9), _tokens(2, 6, 3)))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_heads_as_a_view_of_feature_maps(backend, layout):
    """Multi-head feature attention: (B, heads·C, H, W) seen as (B, heads, H·W, C)."""
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    maps = tuple(
        torch.randn(2, 3 * c, 4, 5, dtype=torch.float64).contiguous(memory_format=format).requires_grad_()
        for c in (4, 4, 6)
    )

    def heads(x):
        return x.unflatten(1, (3, -1)).flatten(3).mT

    def ours(*x):
        return scaled_dot_product_attention(*map(heads, x), scale=1.0, backend=backend)

    def plain(*x):
        one = [feature_attention(*(y.unflatten(1, (3, -1))[:, h] for y in x), backend="reference") for h in range(3)]
        return torch.stack(one, 1).flatten(3).mT

    check(ours, plain, maps)


def test_transposed_heads(backend):
    """(B, N, heads, E), as transformers have it, read in place."""
    inputs = tuple(_tokens(2, n, 3, c) for n, c in ((5, 4), (7, 4), (7, 6)))
    ours, theirs = _both(backend)
    check(lambda *x: ours(*(y.transpose(1, 2) for y in x)), lambda *x: theirs(*(y.transpose(1, 2) for y in x)), inputs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, 5, 3, 4).transpose(1, 2),
        lambda: torch.zeros(2, 3, 4, 5).mT,
        lambda: torch.zeros(2, 3, 5, 10)[..., 2:6],
        lambda: torch.zeros(5, 4),
        lambda: torch.zeros(2, 2, 2, 5, 4),
        lambda: torch.zeros(1, 2, 5, 4).expand(3, 2, 5, 4),
    ],
    ids=["transposed heads", "channels first", "slice", "2-D", "5-D", "expanded"],
)
def test_read_in_place(make):
    x = make()
    innermost = tokens.channels_innermost(x, "tokens")
    assert tokens.view(x, "tokens", innermost).tensor is x


@pytest.mark.parametrize("permutation", [(0, 1, 2, 4, 3), (1, 0, 2, 3, 4), (2, 3, 0, 1, 4), (4, 3, 2, 1, 0)], ids=str)
def test_permuted(backend, permutation):
    def permuted(shape):
        place = [shape[i] for i in permutation]
        inverse = [permutation.index(i) for i in range(5)]
        return torch.randn(place, dtype=torch.float64).permute(inverse).requires_grad_()

    inputs = tuple(permuted(shape) for shape in ((2, 3, 2, 5, 4), (2, 3, 2, 6, 4), (2, 3, 2, 6, 3)))
    ours, theirs = _both(backend)
    check(ours, theirs, inputs)


def test_expanded_dimension_cut_to_one(backend):
    """Three batch dimensions of which the middle has one element and a stride that says nothing."""
    inputs = tuple(_tokens(2, 1, n, c)[None, None].expand(3, 7, 2, 1, n, c)[:, :1] for n, c in ((4, 3), (5, 3), (5, 2)))
    inputs = tuple(x.detach().requires_grad_() for x in inputs)
    ours, theirs = _both(backend)
    check(ours, theirs, inputs, order=0)


@pytest.mark.parametrize("make", [lambda *s: torch.randn(s), lambda *s: torch.randn(*s[:2], s[3], s[2]).mT])
def test_output_is_a_tensor_of_its_own(backend, make):
    q, k, v = make(2, 3, 5, 4), make(2, 3, 7, 4), make(2, 3, 7, 6)
    output = scaled_dot_product_attention(q, k, v, backend=backend)
    assert not output._is_view()
    assert output.stride() == make(2, 3, 5, 6).stride()
    assert torch.equal(output.clone().add_(1), output.add_(1))

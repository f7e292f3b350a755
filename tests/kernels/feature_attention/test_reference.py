"""The definition against loops that anybody can check."""

import math

import pytest
import torch
import torch.nn.functional as F

from ganfuse.kernels.feature_attention.reference import feature_attention, scaled_dot_product_attention
from tests.kernels.feature_attention.problems import PROBLEMS, make_inputs


def by_loops(query, key, value, scale):
    """Zhang et al. 2018, eq. 1 and 2, position by position, in Python's float64."""
    batch, d, height, width = query.shape
    rows, columns = key.shape[2:]
    q, k, v = query.tolist(), key.tolist(), value.tolist()
    output = torch.empty(batch, value.shape[1], height, width, dtype=torch.float64)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                logits = {
                    (i, j): scale * sum(q[b][c][y][x] * k[b][c][i][j] for c in range(d))
                    for i in range(rows)
                    for j in range(columns)
                }
                largest = max(logits.values())
                weights = {place: math.exp(logit - largest) for place, logit in logits.items()}
                total = sum(weights.values())
                for e in range(value.shape[1]):
                    output[b, e, y, x] = sum(w / total * v[b][e][i][j] for (i, j), w in weights.items())
    return output


@pytest.mark.parametrize("name", ["square", "pooled keys", "more keys than queries", "one query", "one key"])
@pytest.mark.parametrize("scale", [1.0, -0.5, 0.0])
def test_feature_attention(name, scale):
    inputs = [x.detach() for x in make_inputs(PROBLEMS[name])]
    torch.testing.assert_close(feature_attention(*inputs, scale), by_loops(*inputs, scale), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("queries", "keys"), [(3, 5), (4, 4), (5, 3)])
@pytest.mark.parametrize("is_causal", [False, True])
def test_scaled_dot_product_attention(queries, keys, is_causal):
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64) for n in (queries, keys, keys))
    expected = F.scaled_dot_product_attention(q, k, v, scale=0.3, is_causal=is_causal)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v, 0.3, is_causal), expected, rtol=1e-12, atol=1e-13)


def test_differentiable_to_any_order():
    q, k, v = make_inputs(PROBLEMS["square"])
    total = feature_attention(q, k, v, 1.0).square().sum()
    for _ in range(4):
        (gradient,) = torch.autograd.grad(total, q, create_graph=True)
        total = gradient.square().sum()
    assert torch.isfinite(total)
    assert total.requires_grad

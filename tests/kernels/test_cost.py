"""The cost formulas against the algorithms carried out with every product and exponential counted."""

import pytest
import torch

from ganfuse.kernels import Cost
from ganfuse.kernels.feature_attention import cost
from ganfuse.kernels.feature_attention.reference import scaled_dot_product_attention

N, M, D, E = 5, 7, 3, 4


class Counted:
    """Runs an algorithm, counting multiply-adds of matrix products and exponentials."""

    def __init__(self):
        self.multiply_adds = self.exps = 0

    def mm(self, a, b):
        self.multiply_adds += a.shape[0] * a.shape[1] * b.shape[1]
        return a @ b

    def weights(self, q, k, log_sum_exp):
        logits = self.mm(q, k.T)
        self.exps += logits.numel()
        return torch.exp(logits - log_sum_exp[:, None])


@pytest.fixture
def tensors():
    q, a = torch.randn(2, N, D, dtype=torch.float64)
    k, b = torch.randn(2, M, D, dtype=torch.float64)
    v, c = torch.randn(2, M, E, dtype=torch.float64)
    do = torch.randn(N, E, dtype=torch.float64)
    q, k, v, do = (x.detach().requires_grad_() for x in (q, k, v, do))
    o = scaled_dot_product_attention(q, k, v, 1.0)
    first = torch.autograd.grad(o, (q, k, v), do, create_graph=True)
    second = torch.autograd.grad(first, (do, q, k, v), (a, b, c))
    lse = torch.logsumexp(q @ k.T, 1)
    names = {"q": q, "k": k, "v": v, "do": do, "a": a, "b": b, "c": c, "o": o, "lse": lse, "delta": (do * o).sum(1)}
    return {name: x.detach() for name, x in names.items()}, [x.detach() for x in first], second


def _expected(counted):
    return 2 * counted.multiply_adds, counted.exps


def test_forward(tensors):
    t, _, _ = tensors
    run = Counted()
    p = run.weights(t["q"], t["k"], t["lse"])
    torch.testing.assert_close(run.mm(p, t["v"]), t["o"])
    found = cost.forward(1, N, M, D, E, 2)
    assert (found.flops, found.exps) == _expected(run)
    assert found.bytes == 2 * sum(t[x].numel() for x in "qkvo") + 4 * N


def test_backward(tensors):
    t, (dq, dk, dv), _ = tensors
    run = Counted()
    # One pass over the queries, one over the keys, each with weights of its own.
    p = run.weights(t["q"], t["k"], t["lse"])
    ds = p * (run.mm(t["do"], t["v"].T) - t["delta"][:, None])
    torch.testing.assert_close(run.mm(ds, t["k"]), dq)
    p = run.weights(t["q"], t["k"], t["lse"])
    ds = p * (run.mm(t["do"], t["v"].T) - t["delta"][:, None])
    torch.testing.assert_close(run.mm(ds.T, t["q"]), dk)
    torch.testing.assert_close(run.mm(p.T, t["do"]), dv)
    found = cost.backward(1, N, M, D, E, 4)
    assert (found.flops, found.exps) == _expected(run)
    read = sum(t[x].numel() for x in ("q", "k", "v", "o", "do"))
    assert found.bytes == 4 * (read + dq.numel() + dk.numel() + dv.numel()) + 4 * (N + N)


def _double_backward(t, run, outputs):
    """One pass that gives the named outputs."""
    q, k, v, do, a, b, c = (t[x] for x in ("q", "k", "v", "do", "a", "b", "c"))
    delta = t["delta"][:, None]
    p = run.weights(q, k, t["lse"])
    tt = run.mm(a, k.T) + run.mm(q, b.T)
    r = (tt * p).sum(1, keepdim=True)
    results = {}
    if {"dq", "dk"} & set(outputs):
        dp, x = run.mm(do, v.T), run.mm(do, c.T)
        ds, g = p * (dp - delta), p * (tt * (dp - delta) + x)
        w = g.sum(1, keepdim=True) - r * delta
    if "ddo" in outputs:
        results["ddo"] = run.mm(p * tt, v) + run.mm(p, c) - r * t["o"]
    if "dq" in outputs:
        rest = r * run.mm(p * dp, k) + w * run.mm(p, k)
        results["dq"] = run.mm(g, k) + run.mm(ds, b) - rest
    if "dk" in outputs:
        s2 = p * (tt * (dp - delta) - r * dp + x - w)
        results["dk"] = run.mm(s2.T, q) + run.mm(ds.T, a)
    if "dv" in outputs:
        results["dv"] = run.mm((p * (tt - r)).T, do)
    return results


@pytest.mark.parametrize("split", [False, True])
def test_double_backward(tensors, split):
    t, _, second = tensors
    run = Counted()
    passes = [["dq"], ["ddo"], ["dk"], ["dv"]] if split else [["dq", "ddo"], ["dk", "dv"]]
    results = {}
    for outputs in passes:
        results |= _double_backward(t, run, outputs)
    for name, expected in zip(("ddo", "dq", "dk", "dv"), second):
        torch.testing.assert_close(results[name], expected)
    found = cost.double_backward(1, N, M, D, E, 2, split=split)
    assert (found.flops, found.exps) == _expected(run)
    moved = sum(t[x].numel() for x in ("q", "k", "v", "o", "do", "a", "b", "c")) + sum(x.numel() for x in second)
    assert found.bytes == 2 * moved + 4 * 4 * N


@pytest.mark.parametrize("formula", [cost.forward, cost.backward, cost.double_backward])
def test_proportional_to_the_batch(formula):
    one, many = formula(1, N, M, D, E, 2), formula(6, N, M, D, E, 2)
    assert (many.bytes, many.flops, many.exps) == (6 * one.bytes, 6 * one.flops, 6 * one.exps)


def test_cost_arithmetic():
    total = Cost(bytes=10, flops=40) + Cost(bytes=30, flops=40, exps=7)
    assert total == Cost(40, 80, 7)
    assert total.intensity == 2.0
    assert Cost(0, 5).intensity == 0.0


def test_floor_is_the_slowest_unit():
    work = Cost(bytes=100, flops=1000, exps=50)
    assert work.floor_seconds(bandwidth=10, flop_rate=1000) == 10.0
    assert work.floor_seconds(bandwidth=1000, flop_rate=100) == 10.0
    assert work.floor_seconds(bandwidth=1000, flop_rate=1000, exp_rate=10) == 5.0
    assert work.floor_seconds(bandwidth=1000, flop_rate=1000) == 1.0

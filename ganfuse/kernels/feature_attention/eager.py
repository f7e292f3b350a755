"""The fast form in plain PyTorch for CPUs.

Small problems keep the weight matrix, as everybody does. Large ones go through PyTorch's fused CPU attention, which
wants equal head sizes: padding queries and keys (or values) with zeros changes nothing and is cheap. In bfloat16 that
is slow on machines without AMX, where a block of queries at a time is better. The fused attention's own second
derivative does not exist, so the double backward is ours, over blocks of queries: no N×M matrix at any time.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.feature_attention import allocation
from ganfuse.kernels.feature_attention.allocation import Attributes
from ganfuse.kernels.feature_attention.tokens import shape_of

# Up to here keeping the weights beats recomputing them, on every machine tried.
_STORED_PAIRS = 1 << 20
# Pairs of one block: the five of the double backward then stay in a core's cache (float32, 5 MiB).
_BLOCK_PAIRS = 1 << 18

_aten = torch.ops.aten
# Private, so with the answer of most machines in case it goes.
_has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


def _canonical(x: Tensor, form: str) -> Tensor:
    """(batch · heads, tokens, channels), a view wherever the strides allow one."""
    if form == "map":
        return x.flatten(2).transpose(1, 2)
    return x.reshape(-1, *x.shape[-2:])


def _stores_weights(query: Tensor, key: Tensor, form: str) -> bool:
    q, k = shape_of(query, form), shape_of(key, form)
    return q.batch * q.heads == 0 or q.tokens * k.tokens <= _STORED_PAIRS


@functools.cache
def _prefers_blocks(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16 and not _has_amx()


def _blocks(queries: int, pairs_per_query: int) -> Iterator[slice]:
    """Slices of the queries, each of about _BLOCK_PAIRS pairs over all samples."""
    block = max(1, min(queries, _BLOCK_PAIRS // max(1, pairs_per_query)))
    for first in range(0, queries, block):
        yield slice(first, min(first + block, queries))


def _allocate(attributes: Attributes, inputs: Tensors) -> Tensors:
    query, key, _ = inputs
    output, rows = allocation.fake_forward(attributes, inputs)
    if _stores_weights(query, key, attributes.form):
        q, k = shape_of(query, attributes.form), shape_of(key, attributes.form)
        dtype = torch.float32 if query.dtype == torch.float16 else query.dtype
        return output, query.new_empty(q.batch * q.heads, q.tokens, k.tokens, dtype=dtype)
    return output, rows


def _padded(x: Tensor, channels: int) -> Tensor:
    """(1, heads, tokens, channels) in the order that the fused kernel reads."""
    if x.shape[-1] < channels:
        return F.pad(x, (0, channels - x.shape[-1])).unsqueeze(0)
    return x.contiguous().unsqueeze(0)


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    output, state = _allocate(attributes, inputs)
    q, k, v = (_canonical(x, attributes.form) for x in inputs)
    target = _canonical(output, attributes.form)
    if state.ndim == 3:
        weights = torch.bmm(_scaled(q, attributes), k.transpose(1, 2), out=state)
        if attributes.is_causal:
            later = torch.ones(weights.shape[1:], dtype=torch.bool, device=weights.device).triu_(1)
            weights.masked_fill_(later, float("-inf"))
        torch.softmax(weights, -1, out=weights)
        torch.bmm(weights, v, out=target)
        return output, weights
    if _prefers_blocks(q.dtype):
        kt = k.transpose(1, 2)
        for rows in _blocks(q.shape[1], k.shape[0] * k.shape[1]):
            weights = torch.softmax(_scores(attributes, q[:, rows], kt, q.dtype, rows.start), -1)
            target[:, rows] = torch.bmm(weights, v)
        # The backwards normalise their blocks themselves, and read no log-sum-exp.
        return output, state.zero_()
    channels = max(q.shape[-1], v.shape[-1])
    result, log_sum_exp = _aten._scaled_dot_product_flash_attention_for_cpu(
        _padded(q, channels), _padded(k, channels), _padded(v, channels), 0.0, attributes.is_causal,
        scale=attributes.scale,
    )  # fmt: skip
    target.copy_(result[0, ..., : v.shape[-1]])
    return output, state.copy_(log_sum_exp.reshape(state.shape))


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    gradients, (delta,) = allocation.fake_backward(attributes, needs, grad_output, inputs, output, state)
    form, scale = attributes.form, attributes.scale
    q, k, v, o, do = (_canonical(x, form) for x in (*inputs, output, grad_output))
    torch.sum(do * o, -1, dtype=delta.dtype, out=delta)
    grad_query, grad_key, grad_value = (None if g is None else _canonical(g, form) for g in gradients)
    weights = state[0]
    if weights.ndim == 3:
        if grad_value is not None:
            torch.bmm(weights.transpose(1, 2), do, out=grad_value)
        if grad_query is not None or grad_key is not None:
            ds = _aten._softmax_backward_data(torch.bmm(do, v.transpose(1, 2)), weights, -1, weights.dtype)
            if scale != 1.0:
                ds.mul_(scale)
            if grad_query is not None:
                torch.bmm(ds, k, out=grad_query)
            if grad_key is not None:
                torch.bmm(ds.transpose(1, 2), q, out=grad_key)
        return gradients, (delta,)
    if _prefers_blocks(q.dtype):
        _backward_by_blocks(attributes, (q, k, v), do, weights, delta, (grad_query, grad_key, grad_value))
        return gradients, (delta,)
    channels = max(q.shape[-1], v.shape[-1])
    padded = [_padded(x, channels) for x in (do, q, k, v, o)]
    results = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *padded, weights.unsqueeze(0), 0.0, attributes.is_causal, scale=scale
    )
    for target, result in zip((grad_query, grad_key, grad_value), results):
        if target is not None:
            target.copy_(result[0, ..., : target.shape[-1]])
    return gradients, (delta,)


def _backward_by_blocks(
    attributes: Attributes, inputs: Tensors, do: Tensor, state: Tensor, delta: Tensor, targets: Gradients
) -> None:
    q, k, v = inputs
    grad_query, grad_key, grad_value = targets
    kt, vt = k.transpose(1, 2), v.transpose(1, 2)
    # Sums over blocks keep more digits than the half types have.
    sum_k, sum_v = (x.new_zeros(x.shape, dtype=delta.dtype) for x in (k, v))
    for rows in _blocks(q.shape[1], k.shape[0] * k.shape[1]):
        p = _weights(attributes, q[:, rows], kt, state, rows.start)
        if grad_value is not None:
            sum_v += torch.bmm(p.transpose(1, 2), do[:, rows])
        if grad_query is not None or grad_key is not None:
            ds = torch.bmm(do[:, rows], vt).sub_(delta[:, rows].to(p.dtype).unsqueeze(-1)).mul_(p)
            if grad_query is not None:
                grad_query[:, rows] = torch.bmm(ds, k).mul_(attributes.scale)
            if grad_key is not None:
                sum_k += torch.bmm(ds.transpose(1, 2), q[:, rows])
    if grad_key is not None:
        grad_key.copy_(sum_k.mul_(attributes.scale))
    if grad_value is not None:
        grad_value.copy_(sum_v)


def double_backward(
    attributes: Attributes,
    needs: Needs,
    cotangents: Tensors,
    grad_output: Tensor,
    inputs: Tensors,
    output: Tensor,
    state: Tensors,
    notes: Tensors,
) -> Gradients:
    """The formulas of `triton_double_backward`, a block of queries at a time."""
    form, scale = attributes.form, attributes.scale
    gradients = allocation.fake_double_backward(
        attributes, needs, cotangents, grad_output, inputs, output, state, notes
    )
    q, k, v, do, a, b, c = (_canonical(x, form) for x in (*inputs, grad_output, *cotangents))
    delta = notes[0].to(q.dtype).unsqueeze(-1)
    ddo, dq, dk, dv = (None if g is None else _canonical(g, form) for g in gradients)
    samples, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    sum_k = None if dk is None else torch.zeros_like(k, memory_format=torch.contiguous_format)
    sum_v = None if dv is None else torch.zeros_like(v, memory_format=torch.contiguous_format)
    kt, bt, vt, ct = (x.transpose(1, 2) for x in (k, b, v, c))
    for rows in _blocks(queries, keys * samples):
        q_, a_, do_, delta_ = q[:, rows], a[:, rows], do[:, rows], delta[:, rows]
        p = _weights(attributes, q_, kt, state[0], rows.start)
        t = torch.baddbmm(torch.bmm(a_, kt), q_, bt, beta=scale, alpha=scale)
        pt = p * t
        r = pt.sum(-1, keepdim=True)
        u = pt - r * p
        if ddo is not None:
            ddo[:, rows] = torch.baddbmm(torch.bmm(u, v), p, c)
        if sum_v is not None:
            sum_v.baddbmm_(u.transpose(1, 2), do_)
        if dq is None and sum_k is None:
            continue
        dp = torch.bmm(do_, vt)
        ds = (dp - delta_).mul_(p)
        # P∘W, then centred to P∘(W − w): in place, these are the largest tensors here.
        s2 = ds.mul(t).sub_(dp.mul_(p).mul_(r)).add_(torch.bmm(do_, ct).mul_(p))
        s2.sub_(p.mul_(s2.sum(-1, keepdim=True)))
        if dq is not None:
            dq[:, rows] = torch.baddbmm(torch.bmm(s2, k), ds, b).mul_(scale)
        if sum_k is not None:
            sum_k.baddbmm_(s2.transpose(1, 2), q_, alpha=scale).baddbmm_(ds.transpose(1, 2), a_, alpha=scale)
    for target, total in ((dk, sum_k), (dv, sum_v)):
        if target is not None and total is not None:
            target.copy_(total)
    return gradients


def _scaled(q: Tensor, attributes: Attributes) -> Tensor:
    # Before the product: in half types it may overflow before a scale below 1 could bring it back.
    return q if attributes.scale == 1.0 else q * attributes.scale


def _scores(attributes: Attributes, q: Tensor, kt: Tensor, dtype: torch.dtype, first: int) -> Tensor:
    """Scaled scores of a block of queries in `dtype`, a tensor of its own; -inf where the causal mask hides."""
    scores = torch.bmm(_scaled(q, attributes), kt).to(dtype)
    if attributes.is_causal:
        columns = torch.arange(kt.shape[-1], device=q.device)
        later = columns > torch.arange(first, first + q.shape[1], device=q.device).unsqueeze(-1)
        scores.masked_fill_(later, float("-inf"))
    return scores


def _weights(attributes: Attributes, q: Tensor, kt: Tensor, state: Tensor, first: int) -> Tensor:
    """Softmax weights of a block of queries, a tensor of its own: kept whole, or computed again."""
    rows = slice(first, first + q.shape[1])
    if state.ndim == 3:
        return state[:, rows].clone()
    # A block has all keys, so it can normalise its own scores: in half types the log-sum-exp is of other roundings.
    return torch.softmax(_scores(attributes, q, kt, state.dtype, first), -1).to(q.dtype)


def unsupported(query: Tensor) -> str | None:
    """Why this form does not take the call; None if it does."""
    return None if query.device.type == "cpu" else "the eager form is written for CPUs"


def _widened(launcher: Callable[..., Any]) -> Callable[..., Any]:
    """`launcher` in float32 for float16 tensors: CPUs multiply them as fast, or much faster, and nothing overflows."""

    def run(attributes: Attributes, *args: Any) -> Any:
        half = False

        def widen(x: Any) -> Any:
            nonlocal half
            if isinstance(x, tuple):
                return tuple(map(widen, x))
            if isinstance(x, Tensor) and x.dtype == torch.float16:
                half = True
                return x.float()
            return x

        wide = widen(args)
        results = launcher(attributes, *wide)
        return _narrowed(launcher, results) if half else results

    return run


def _narrowed(launcher: Callable[..., Any], results: Any) -> Any:
    # What is kept (weights, row vectors) stays in float32.
    def narrow(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.half()

    if launcher is forward:
        return narrow(results[0]), *results[1:]
    if launcher is backward:
        return tuple(map(narrow, results[0])), results[1]
    return tuple(map(narrow, results))


IMPLEMENTATION = Implementation(
    _widened(forward),
    _widened(backward),
    _widened(double_backward),
    _allocate,
    allocation.fake_backward,
    allocation.fake_double_backward,
)

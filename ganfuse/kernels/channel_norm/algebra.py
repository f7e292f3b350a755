"""Everything between the passes over feature maps, on (B, C) tensors, in plain PyTorch.

Every norm is a sum of *terms*: ``z = Σ_t a_t · x̂_t + bias`` with ``x̂_t = (x − μ_t) · r_t``, where μ_t and r_t are the
statistics of the term's set of rows, and a_t is made of gain and rho. With d = x − m for the centre m of the forward,
x̂_t = r_t · (d + δ_t), δ_t = m − μ_t, so that the maps are only ever asked for sums against 1 and d. These are the
formulas that the Triton kernels of `triton_coefficients` repeat; here they serve the eager form and batches that
several processes share.

For one term, with u = a·g, g = act'·dy, N elements in the set, and N' = N or N − 1 as the variance is divided:

    dx = r·(u − Σu/N − x̂·Σ(u·x̂)/N')

Its adjoint for the cotangents h of dx and k of da = Σ g·x̂ is that of dx plus that of x̂ (with k·g):

    W   = Σh·u − Σh·Σu/N − Σ(h·x̂)·Σ(u·x̂)/N'
    ∂g  = a·r·(h − Σh/N − x̂·Σ(h·x̂)/N') + k·x̂
    v   = k·g − r·(h·Σ(u·x̂) + u·Σ(h·x̂))/N'
    ∂x  = r·(v − Σv/N − x̂·Σ(v·x̂)/N') − r²·W/N'·x̂
    ∂a  = r·(Σh·g − Σg·Σh/N − Σ(g·x̂)·Σ(h·x̂)/N')        (sums over a row where a is one number per row)

Statistics that are given, not taken, are N = N' = ∞.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ganfuse.kernels.channel_norm import allocation as plane
from ganfuse.kernels.channel_norm.allocation import Attributes
from ganfuse.kernels.channel_norm.processes import gather_moments, resolve

Inverse = float | Tensor
Optional = Tensor | None


class Term(NamedTuple):
    """One term of a norm.

    Attributes:
        a, rstd: (B, C). shift: δ, (B, C), or None for 0.
        inverse, inverse_variance: 1/N and 1/N'.
        total: sums over the term's set of rows, of tensors stacked in front: (k, B, C) to what broadcasts with it.
    """

    a: Tensor
    rstd: Tensor
    shift: Tensor | None
    inverse: Inverse
    inverse_variance: Inverse
    total: Callable[[Tensor], Tensor]

    def against(self, ones: Tensor, centred: Tensor) -> Tensor:
        """Σ f·x̂ from Σ f and Σ f·d."""
        if self.shift is not None:
            centred = torch.addcmul(centred, self.shift, ones)
        return centred * self.rstd


def forward(
    attributes: Attributes,
    row_mean: Tensor,
    row_squares: Tensor,
    positions: int,
    inputs: tuple[Optional, ...],
) -> tuple[Tensor, Tensor]:
    """`coefficients` and `moments` of `allocation.fake_forward`.

    Args:
        row_mean, row_squares: (B, C) mean and centred square sum of each row of `positions` elements; unused where
            statistics are given.
        inputs: of the op; the first is not looked at.
    """
    kind, (batch, channels) = attributes.kind, row_mean.shape
    _, gain, bias, rho, mean, var = inputs[:6]
    dtype = row_mean.dtype
    moments = row_mean.new_empty((3, channels if kind == "batch" else 0))
    if kind == "given":
        assert mean is not None
        assert var is not None
        centre, rstd = mean.to(dtype), torch.rsqrt(var.to(dtype) + attributes.eps)
    elif kind == "row":
        centre, rstd = row_mean, _rstd(attributes, row_squares, positions)
    elif kind == "batch":
        centre, squares = _joined(row_mean, row_squares, positions, 0)
        count: Inverse = batch * positions
        group = resolve(attributes.process_group)
        if group is not None:
            centre, squares, count = gather_moments(centre, squares, batch * positions, group)
        rstd = _rstd(attributes, squares, count)
        moments[0], moments[1], moments[2] = centre, squares / _at_least_one(count, 1), count
    else:
        shape = (batch, attributes.groups, channels // attributes.groups)
        joined = _joined(row_mean.view(shape), row_squares.view(shape), positions, 2)
        centre, squares = (t.unsqueeze(-1) for t in joined)
        rstd = _rstd(attributes, squares, positions * shape[2])
        centre, rstd = (t.expand(shape).reshape(batch, channels) for t in (centre, rstd))
    coefficients = row_mean.new_empty((plane.num_planes(attributes), batch, channels))
    offset: Tensor | float = 0.0 if bias is None else bias.to(dtype)
    slope: Tensor | float = 1.0 if gain is None else gain.to(dtype)
    if kind == "mix":
        assert rho is not None
        share = rho.to(dtype)
        row_rstd = _rstd(attributes, row_squares, positions)
        shift = row_mean - centre
        other = slope * (1 - share) * rstd
        coefficients[plane.ROW_RSTD], coefficients[plane.SHIFT] = row_rstd, shift
        coefficients[plane.SLOPE] = slope * share * row_rstd + other
        coefficients[plane.OFFSET] = offset + other * shift
        centre = row_mean
    else:
        coefficients[plane.SLOPE] = slope * rstd
        coefficients[plane.OFFSET] = offset
    coefficients[plane.CENTRE], coefficients[plane.RSTD] = centre, rstd
    return coefficients, moments


def _joined(mean: Tensor, squares: Tensor, count: int, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and centred square sum of sets of `count` elements each, joined along `dim` (Chan et al. 1979)."""
    if mean.shape[dim] == 1:
        return mean.squeeze(dim), squares.squeeze(dim)
    total = mean.mean(dim, keepdim=True)
    return total.squeeze(dim), squares.sum(dim) + count * (mean - total).square().sum(dim)


def _at_least_one(count: Inverse, less: int) -> Inverse:
    return (count - less).clamp(min=1) if isinstance(count, Tensor) else max(count - less, 1)


def _rstd(attributes: Attributes, squares: Tensor, count: Inverse) -> Tensor:
    return torch.rsqrt(squares / _at_least_one(count, int(attributes.unbiased)) + attributes.eps)


def terms(
    attributes: Attributes, coefficients: Tensor, moments: Tensor, positions: int, gain: Optional, rho: Optional
) -> list[Term]:
    """The terms of a call; the first has the sets of rows that `attributes.kind` names, the last of "mix" rows."""
    kind, rstd = attributes.kind, coefficients[plane.RSTD]
    batch, channels = rstd.shape
    a = torch.ones_like(rstd) if gain is None else gain.to(rstd.dtype).expand_as(rstd)

    def inverses(count: Inverse) -> tuple[Inverse, Inverse]:
        return 1 / _at_least_one(count, 0), 1 / _at_least_one(count, int(attributes.unbiased))

    if kind == "given":
        return [Term(a, rstd, None, 0.0, 0.0, lambda sums: sums)]
    if kind == "row":
        return [Term(a, rstd, None, *inverses(positions), lambda sums: sums)]
    if kind == "batch":
        group = resolve(attributes.process_group)

        def total(sums: Tensor) -> Tensor:
            summed = sums.sum(1, keepdim=True)
            if group is not None:
                dist.all_reduce(summed, group=group)
            return summed

        count: Inverse = batch * positions if group is None else moments[2]
        return [Term(a, rstd, None, *inverses(count), total)]

    def grouped(sums: Tensor) -> Tensor:
        parts = sums.view(-1, batch, attributes.groups, channels // attributes.groups)
        return parts.sum(3, keepdim=True).expand_as(parts).reshape(sums.shape)

    size = positions * channels // attributes.groups
    if kind == "group":
        return [Term(a, rstd, None, *inverses(size), grouped)]
    assert rho is not None
    share = rho.to(rstd.dtype)
    return [
        Term(a * (1 - share), rstd, coefficients[plane.SHIFT], *inverses(size), grouped),
        Term(a * share, coefficients[plane.ROW_RSTD], None, *inverses(positions), lambda sums: sums),
    ]


def backward(
    attributes: Attributes, all_terms: list[Term], ones: Tensor, centred: Tensor
) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
    """((g1, g2), [∂a per term]) of ``dx = slope·g + g1 + g2·d``, from Σg and Σg·d of each row."""
    weights = [term.against(ones, centred) for term in all_terms]
    parts = [_first(term, ones, against) for term, against in zip(all_terms, weights)]
    constant, linear = parts[0]
    for one, more in parts[1:]:
        constant, linear = constant + one, linear + more
    return (constant, linear), weights


def _first(term: Term, ones: Tensor, against: Tensor) -> tuple[Tensor, Tensor]:
    if isinstance(term.inverse, float) and term.inverse == 0.0:
        zeros = torch.zeros_like(ones)
        return zeros, zeros
    total, total_against = term.total(torch.stack([term.a * ones, term.a * against]))
    linear = -term.rstd.square() * total_against * term.inverse_variance
    constant = -term.rstd * total * term.inverse
    return (constant if term.shift is None else constant + linear * term.shift), linear


class Second(NamedTuple):
    """Coefficients of the second backward's apply pass, each (B, C).

    ``∂dy = act'·q``, ``q = slope·h + q_linear·d + q_constant``, and
    ``∂x = on_grad·g + on_h·h + linear·d + constant (+ slope·q·act''·dy)``.
    """

    q_linear: Tensor
    q_constant: Tensor
    on_grad: Tensor
    on_h: Tensor
    linear: Tensor
    constant: Tensor


def double_backward(
    attributes: Attributes,
    all_terms: list[Term],
    sums: tuple[Tensor, ...],
    weight_cotangents: list[Tensor | None],
    bias_cotangent: Tensor | None,
    slope: Tensor,
) -> tuple[Second, list[Tensor], Tensor | None]:
    """(coefficients, [∂a per term], ∂bias or None for 0).

    Args:
        sums: of each row Σg, Σg·d, Σh, Σh·d, Σh·g; and for silu, with e = act''·dy: Σe, Σe·d, Σe·d², Σe·h, Σe·h·d.
        weight_cotangents: of each term's ∂a; None for 0. bias_cotangent: likewise, anything that broadcasts.
    """
    grad, grad_d, h, h_d, h_grad = sums[:5]
    zero = torch.zeros_like(grad)
    q_linear, on_grad, on_h, linear, constant = zero, zero, zero, zero, zero
    q_constant = zero if bias_cotangent is None else zero + bias_cotangent
    weights = []
    for term, k in zip(all_terms, weight_cotangents):
        a, r, n, nv = term.a, term.rstd, term.inverse, term.inverse_variance
        grad_x, h_x = term.against(grad, grad_d), term.against(h, h_d)
        k = zero if k is None else k
        stacked = torch.stack([a * grad, a * grad_x, h, h_x, a * h_grad, k * grad, k * grad_x])
        su, sux, sh, shx, shu, sk, skx = term.total(stacked)
        w = shu - sh * su * n - shx * sux * nv
        sv = sk - r * (sh * sux + su * shx) * nv
        svx = skx - 2 * r * shx * sux * nv
        q_x = k - a * r * shx * nv
        x = -r * nv * (svx + r * w)
        shift = zero if term.shift is None else term.shift
        q_linear = q_linear + q_x * r
        q_constant = q_constant - a * r * sh * n + q_x * r * shift
        on_grad = on_grad + r * q_x
        on_h = on_h - r * r * sux * nv
        linear = linear + x * r
        constant = constant - r * sv * n + x * r * shift
        weights.append(r * (h_grad - grad * sh * n - grad_x * shx * nv))
    if len(sums) == 5:
        return Second(q_linear, q_constant, on_grad, on_h, linear, constant), weights, None
    e, e_d, e_dd, e_h, e_hd = sums[5:]
    bend = slope * e_h + q_linear * e_d + q_constant * e
    bend_d = slope * e_hd + q_linear * e_dd + q_constant * e_d
    (more_constant, more_linear), more = backward(attributes, all_terms, bend, bend_d)
    second = Second(q_linear, q_constant, on_grad, on_h, linear + more_linear, constant + more_constant)
    return second, [w + m for w, m in zip(weights, more)], bend


def to_parameters(
    attributes: Attributes, weights: list[Tensor], gain: Optional, rho: Optional, needs_gain: bool, needs_rho: bool
) -> tuple[Optional, Optional]:
    """(B, C) gradients of gain and rho from those of the terms' a."""
    if attributes.kind != "mix":
        return (weights[0] if needs_gain else None), None
    assert rho is not None
    share = rho.to(weights[0].dtype)
    on_gain = torch.lerp(weights[0], weights[1], share.expand_as(weights[0])) if needs_gain else None
    on_rho = weights[1] - weights[0] if needs_rho else None
    if on_rho is not None and gain is not None:
        on_rho = on_rho * gain
    return on_gain, on_rho


def from_parameters(
    attributes: Attributes, gain: Optional, rho: Optional, gain_cotangent: Optional, rho_cotangent: Optional
) -> list[Optional]:
    """Cotangents of the terms' ∂a from those of the gradients of gain and rho: the adjoint of `to_parameters`."""
    if attributes.kind != "mix":
        return [gain_cotangent]
    assert rho is not None
    row: Any = 0.0
    other: Any = 0.0
    if gain_cotangent is not None:
        row, other = rho * gain_cotangent, (1 - rho) * gain_cotangent
    if rho_cotangent is not None:
        through = rho_cotangent if gain is None else gain * rho_cotangent
        row, other = row + through, other - through
    return [None if isinstance(t, float) else t for t in (other, row)]


def reduce_to(gradient: Tensor, like: Tensor) -> Tensor:
    """A (B, C) gradient summed to the shape of its parameter, (C,) or (B, C), in its type."""
    if like.ndim == 1:
        gradient = gradient.sum(0)
    return gradient.to(like.dtype)

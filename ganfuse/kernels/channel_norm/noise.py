"""Noise and prologues, composed of plain passes around a norm that knows nothing of them.

Serves every backend where nothing is fused: all of the eager form, and on GPUs the second backward, gradients of the
noise itself, and batches that several processes share.

With w = x + noise·strength + bias, u = prologue(w) and du the gradient that the norm gives u:

    dx = dw = prologue'(w)·du      d strength = Σ dw·noise      d bias = Σ dw      d noise = Σ_c dw·strength

A cotangent of these is one of dw, H = h + c_strength·noise + c_bias + c_noise·strength, hence prologue'·H one of du;
what the norm's second backward then gives u goes back through prologue' (and, for silu, prologue''·du·H with it).
For noise after the affine map, z = affine(x) + noise·strength and g = act'(z)·dy take the places of w and du from the
other side: the norm without its activation has g as its gradient, and q, what its second backward gives g, has
c_strength·noise + c_noise·strength added before ∂dy = act'·q; act''·dy·q is a gradient of z like any other.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.channel_norm import allocation as plane
from ganfuse.kernels.channel_norm.activations import silu_bend, times_slope
from ganfuse.kernels.channel_norm.allocation import NOISE, Attributes, accumulator, is_noisy
from ganfuse.kernels.channel_norm.reference import activate
from ganfuse.kernels.layout import empty, is_channels_last

Optional = Tensor | None


class _Bump(NamedTuple):
    """Noise and bias of a call in the accumulator's type: strength and bias ready to meet maps."""

    noise: Optional
    strength: Optional
    bias: Optional

    @classmethod
    def of(cls, inputs: Tensors, dtype: torch.dtype) -> "_Bump":
        noise, strength, bias = (None if t is None else t.to(dtype) for t in inputs[NOISE:])
        return cls(noise, *(None if t is None else t[:, None, None] for t in (strength, bias)))

    def add_to(self, x: Tensor) -> Tensor:
        """x + noise·strength + bias, in place."""
        if self.noise is not None and self.strength is not None:
            x.addcmul_(self.noise, self.strength)
        return x if self.bias is None else x.add_(self.bias)

    def gradients(self, dw: Tensor, needs: Needs) -> list[Optional]:
        """Of noise, strength and bias, where needed."""
        on_noise = on_strength = on_bias = None
        if self.noise is not None and self.strength is not None:
            on_noise = self._to_noise(dw * self.strength) if needs[0] else None
            on_strength = (dw * self.noise).sum((0, 2, 3)) if needs[1] else None
        if needs[2]:
            on_bias = dw.sum((0, 2, 3))
        return [on_noise, on_strength, on_bias]

    def _to_noise(self, per_channel: Tensor) -> Tensor:
        assert self.noise is not None
        return per_channel.sum((1,) if self.noise.shape[0] == per_channel.shape[0] else (0, 1), keepdim=True).reshape(
            self.noise.shape
        )

    def spread(self, h: Tensor, cotangents: "_Bump") -> Tensor:
        """H: the cotangent h of dw, and what those of the other gradients add to it."""
        for cotangent, factor in ((cotangents.strength, self.noise), (cotangents.noise, self.strength)):
            if cotangent is not None and factor is not None:
                h = torch.addcmul(h, cotangent, factor)
        return h if cotangents.bias is None else h + cotangents.bias

    def mixed(self, dw: Tensor, cotangents: "_Bump", needs: Needs) -> list[Optional]:
        """What noise and strength get through each other's gradients."""
        on_noise = on_strength = None
        if needs[0] and cotangents.strength is not None:
            on_noise = self._to_noise(dw * cotangents.strength)
        if needs[1] and cotangents.noise is not None:
            on_strength = (dw * cotangents.noise).sum((0, 2, 3))
        return [on_noise, on_strength, None]


def _sum(a: Optional, b: Optional) -> Optional:
    return b if a is None else a if b is None else a + b


def _wide(x: Tensor, like: Tensor) -> Tensor:
    """`x` in the accumulator's type and in the layout of `like`, in memory of its own."""
    return empty(x.shape, is_channels_last(like), accumulator(x.dtype), x.device).copy_(x)


def _plain(x: Tensor, inputs: Tensors) -> tuple[Optional, ...]:
    """The inputs of the norm alone."""
    return (x, *inputs[1:NOISE], None, None, None)


def with_noise(norm: Implementation) -> Implementation:
    """`norm`, which looks at the first six inputs alone, made to know the others."""

    def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
        if not is_noisy(attributes, inputs):
            return norm.forward(attributes, inputs)
        x = inputs[0]
        bump = _Bump.of(inputs, accumulator(x.dtype))
        wide = _wide(x, x)
        if attributes.prologue:
            wide = activate(bump.add_to(wide), attributes.prologue, attributes.prologue_slope)
            y, *state = norm.forward(_core(attributes), _plain(wide, inputs))  # type: ignore[arg-type]
        else:
            y, *state = norm.forward(_core(attributes), _plain(wide, inputs))  # type: ignore[arg-type]
            y = activate(bump.add_to(y), attributes.activation, attributes.negative_slope)
        return y.to(x.dtype), *state

    def affine(attributes: Attributes, inputs: Tensors, wide: Tensor, bump: _Bump, coefficients: Tensor) -> Tensor:
        """z = affine(x) + noise·strength."""
        slope, centre, offset = (coefficients[i][..., None, None] for i in (plane.SLOPE, plane.CENTRE, plane.OFFSET))
        return bump.add_to(torch.addcmul(offset, wide - centre, slope))

    def backward(
        attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
    ) -> tuple[Gradients, Tensors]:
        if not is_noisy(attributes, inputs):
            return norm.backward(attributes, needs, grad_output, inputs, output, state)
        x = inputs[0]
        bump = _Bump.of(inputs, accumulator(x.dtype))
        wide, grad = _wide(x, x), _wide(grad_output, x)
        dw: Optional
        if attributes.prologue:
            w = bump.add_to(wide)
            u = activate(w, attributes.prologue, attributes.prologue_slope)
            asked = (needs[0] or any(needs[NOISE:]), *needs[1:NOISE], False, False, False)
            (du, *rest), _ = norm.backward(_core(attributes), asked, grad, _plain(u, inputs), output, state)  # type: ignore[arg-type]
            dw = None if du is None else times_slope(w, attributes.prologue, attributes.prologue_slope, du)
            on_x = dw
        else:
            z = affine(attributes, inputs, wide, bump, state[0])
            dw = times_slope(z, attributes.activation, attributes.negative_slope, grad)
            asked = (*needs[:NOISE], False, False, False)
            (on_x, *rest), _ = norm.backward(_core(attributes), asked, dw, _plain(wide, inputs), output, state)  # type: ignore[arg-type]
        noisy: list[Optional] = [None] * 3 if dw is None else bump.gradients(dw, needs[NOISE:])
        on_x = on_x if on_x is None or not needs[0] else on_x.to(x.dtype)
        return (on_x if needs[0] else None, *rest[: NOISE - 1], *_typed(noisy, inputs)), ()

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
        if not is_noisy(attributes, inputs):
            return norm.double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)
        x, core = inputs[0], _core(attributes)
        dtype = accumulator(x.dtype)
        bump, k = _Bump.of(inputs, dtype), _Bump.of(cotangents, dtype)
        wide, grad, h = (_wide(t, x) for t in (x, grad_output, cotangents[0]))
        wanted = needs[1 + NOISE :]
        also: list[Optional] = [None] * 3
        if attributes.prologue:
            w = bump.add_to(wide)
            name, slope = attributes.prologue, attributes.prologue_slope
            plain = _plain(activate(w, name, slope), inputs)
            h = bump.spread(h, k)
            on_w = None
            if name == "silu" or any(wanted[:2]):
                first = (True, *(False,) * (len(inputs) - 1))
                (du, *_), _ = norm.backward(core, first, grad, plain, output, state)  # type: ignore[arg-type]
                assert du is not None
                also = bump.mixed(times_slope(w, name, slope, du), k, wanted)
                on_w = silu_bend(w) * du * h if name == "silu" else None
            asked = (needs[0], needs[1] or any(wanted), *needs[2 : 1 + NOISE], False, False, False)
            h = times_slope(w, name, slope, h)
            on_grad, on_u, *rest = norm.double_backward(
                core, asked, (h, *cotangents[1:NOISE], None, None, None), grad, plain, output, state, notes  # type: ignore[arg-type]
            )  # fmt: skip
            rest = rest[: NOISE - 1]
            on_x = _sum(None if on_u is None else times_slope(w, name, slope, on_u), on_w)
            from_map = on_x
        else:
            z = affine(attributes, inputs, wide, bump, state[0])
            name, slope = attributes.activation, attributes.negative_slope
            g = times_slope(z, name, slope, grad)
            silu, plain = name == "silu", _plain(wide, inputs)
            asked = (needs[0] or silu, *needs[1 : 1 + NOISE], False, False, False)
            q, on_x, *rest = norm.double_backward(
                core, asked, (h, *cotangents[1:NOISE], None, None, None), g, plain, output, state, notes  # type: ignore[arg-type]
            )  # fmt: skip
            rest = rest[: NOISE - 1]
            also = bump.mixed(g, k, wanted)
            q = None if q is None else bump.spread(q, k)
            on_grad = None if q is None else times_slope(z, name, slope, q)
            from_map = None
            if silu and q is not None:
                from_map = silu_bend(z) * grad * q
                asked = (*needs[1 : 1 + NOISE], False, False, False)
                (more, *others), _ = norm.backward(core, asked, from_map, plain, output, state)  # type: ignore[arg-type]
                on_x, rest = _sum(on_x, more), [_sum(a, b) for a, b in zip(rest, others)]
        zeros = [None if t is None else t.new_zeros(t.shape, dtype=dtype) for t in inputs[NOISE:]]
        noisy = bump.gradients(from_map, wanted) if from_map is not None else [None] * 3
        noisy = [_sum(_sum(a, b), z) if w else None for a, b, z, w in zip(noisy, also, zeros, wanted)]
        maps = (g.to(x.dtype) if g is not None and n else None for g, n in ((on_grad, needs[0]), (on_x, needs[1])))
        return (*maps, *rest, *_typed(noisy, inputs))

    return Implementation(
        forward, backward, double_backward, norm.fake_forward, norm.fake_backward, norm.fake_double_backward
    )


def _core(attributes: Attributes) -> Attributes:
    """The norm alone: without its activation where noise comes between."""
    if attributes.prologue:
        return attributes._replace(prologue="")
    return attributes._replace(activation="none")


def _typed(gradients: list[Optional], inputs: Tensors) -> list[Optional]:
    return [None if g is None else g.to(t.dtype) for g, t in zip(gradients, inputs[NOISE:])]

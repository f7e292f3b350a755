"""The passes in plain PyTorch, in the forms that are fastest on CPUs.

No pass leaves the layout of its input. Statistics are of centred values: one pass more, and right for any mean.
"""

import torch
from torch import Tensor

from ganfuse.kernels.channel_norm import algebra, composition
from ganfuse.kernels.channel_norm import allocation as plane
from ganfuse.kernels.channel_norm.activations import activate_, silu_bend, times_slope
from ganfuse.kernels.channel_norm.allocation import Attributes
from ganfuse.kernels.channel_norm.eager_batch import with_batch
from ganfuse.kernels.channel_norm.eager_maps import affine_map, centred, dot, per_row, row_sums, wide
from ganfuse.kernels.channel_norm.eager_narrow import NarrowMap, is_near, takes
from ganfuse.kernels.channel_norm.noise import with_noise
from ganfuse.kernels.layout import is_channels_last

# Of channels that are constant: their means are far from zero unless they are zero.
_LEAST_VARIANCE = 1e-12


class _EagerPasses:
    """Keeps the centred x of the statistics, and x − centre and act'·dy of the sums, for the apply that follows."""

    def __init__(self) -> None:
        self._from_mean: tuple[Tensor, Tensor] | None = None
        self._d: Tensor | None = None
        self._g: Tensor | None = None

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        channels_last = is_channels_last(x)
        x = wide(x, channels_last)
        positions = composition.positions_of(x)
        mean = x.sum((2, 3)).div_(positions)
        d = x - per_row(mean)
        # What rounding left in the mean of values far from 0 shows in the mean of the centred ones.
        rest, squares = row_sums(d, d, channels_last)
        rest = rest / positions
        self._from_mean = d, mean
        return mean + rest, (squares - rest.square() * positions).clamp_(min=0)

    def apply(self, attributes: Attributes, x: Tensor, coefficients: Tensor) -> Tensor:
        slope, offset = coefficients[plane.SLOPE], coefficients[plane.OFFSET]
        if self._from_mean is None:
            d = self._centred(x, coefficients)
        else:
            d, mean = self._from_mean
            offset = torch.addcmul(offset, slope, mean - coefficients[plane.CENTRE])
        z = affine_map(d, slope, offset, is_channels_last(x), inplace=True)
        return activate_(z, attributes.activation, attributes.negative_slope).to(x.dtype)

    def _normalised(self, x: Tensor, coefficients: Tensor) -> Tensor:
        slope, offset = coefficients[plane.SLOPE], coefficients[plane.OFFSET]
        return affine_map(self._centred(x, coefficients), slope, offset, is_channels_last(x))

    def _centred(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """d, dense, in x's layout."""
        if self._d is None:
            self._d = centred(x, coefficients[plane.CENTRE], is_channels_last(x))
        return self._d

    def _grad(self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor) -> Tensor:
        """g = act'(z)·dy, dense, in x's layout."""
        if self._g is None:
            self._g = self._through(attributes, x, grad, coefficients)
        return self._g

    def _through(self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor) -> Tensor:
        """act'(z) times any map."""
        g = wide(grad, is_channels_last(x))
        if attributes.activation == "none":
            return g
        z = self._normalised(x, coefficients)
        return times_slope(z, attributes.activation, attributes.negative_slope, g, overwrite=True)

    def sums(self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor) -> tuple[Tensor, ...]:
        g = self._grad(attributes, x, grad, coefficients)
        return row_sums(g, self._centred(x, coefficients), is_channels_last(x))

    def apply_backward(
        self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor, constant: Tensor, linear: Tensor
    ) -> Tensor:
        g = self._grad(attributes, x, grad, coefficients)
        d = self._centred(x, coefficients)
        self._d = None
        result = affine_map(d, linear, constant, is_channels_last(x), inplace=True)
        return result.addcmul_(g, per_row(coefficients[plane.SLOPE])).to(x.dtype)

    def double_sums(
        self, attributes: Attributes, x: Tensor, grad: Tensor, h: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, ...]:
        channels_last = is_channels_last(x)
        g = self._grad(attributes, x, grad, coefficients)
        d, h = self._centred(x, coefficients), wide(h, channels_last)
        sums = [*row_sums(g, d, channels_last), *row_sums(h, d, channels_last), dot(h, g, channels_last)]
        if attributes.activation == "silu":
            e = self._bend(x, grad, coefficients)
            ed = e * d
            sums += [e.sum((2, 3)), *row_sums(ed, d, channels_last)]
            sums += [dot(e, h, channels_last), dot(ed, h, channels_last)]
        return tuple(sums)

    def _bend(self, x: Tensor, grad: Tensor, coefficients: Tensor) -> Tensor:
        """e = act''(z)·dy of silu."""
        return silu_bend(self._normalised(x, coefficients)) * wide(grad, is_channels_last(x))

    def apply_double_backward(
        self, attributes: Attributes, x: Tensor, grad: Tensor, h: Tensor, coefficients: Tensor, second: algebra.Second,
        needs_grad: bool, needs_x: bool,
    ) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
        slope = per_row(coefficients[plane.SLOPE])
        on_grad, on_h = per_row(second.on_grad), per_row(second.on_h)
        channels_last = is_channels_last(x)
        d, h = self._centred(x, coefficients), wide(h, channels_last)
        silu = attributes.activation == "silu"
        q = result_grad = result_x = None
        if needs_grad or silu:
            q = affine_map(d, second.q_linear, second.q_constant, channels_last).addcmul_(h, slope)
        if needs_x:
            g = self._grad(attributes, x, grad, coefficients)
            result_x = affine_map(d, second.linear, second.constant, channels_last)
            result_x.addcmul_(h, on_h).addcmul_(g, on_grad)
            if silu and q is not None:
                result_x.addcmul_(self._bend(x, grad, coefficients) * q, slope)
            result_x = result_x.to(x.dtype)
        if needs_grad and q is not None:
            result_grad = self._through(attributes, x, q, coefficients).to(x.dtype)
        return result_grad, result_x


class _NarrowPasses(_EagerPasses):
    """Forward and first backward of bfloat16 maps as `NarrowMap` has them, where means are near zero."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self._map = NarrowMap(x, per_sample=True)
        self._scaled: list[Tensor] | None = None

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = self._map.moments()
        # Which eps will be added is unknown here: without it more maps are far from zero, never fewer.
        if not is_near(mean, var.clamp(min=_LEAST_VARIANCE).rsqrt_()):
            return super().statistics(x)
        return mean, var * composition.positions_of(x)

    def apply(self, attributes: Attributes, x: Tensor, coefficients: Tensor) -> Tensor:
        if self._from_mean is not None or not _are_near(coefficients):
            return super().apply(attributes, x, coefficients)
        slope, offset = _line(coefficients)
        z = self._map.affine(slope, _from_zero(coefficients, slope, offset))
        return activate_(z, attributes.activation, attributes.negative_slope)

    def sums(self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor) -> tuple[Tensor, ...]:
        if not _are_near(coefficients):
            return super().sums(attributes, x, grad, coefficients)
        slope, offset = _line(coefficients)
        self._scaled, *sums = self._map.scaled(
            attributes, grad, slope, _from_zero(coefficients, slope, offset), coefficients[plane.CENTRE]
        )
        return tuple(sums)

    def apply_backward(
        self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor, constant: Tensor, linear: Tensor
    ) -> Tensor:
        if not _are_near(coefficients):
            return super().apply_backward(attributes, x, grad, coefficients, constant, linear)
        if self._scaled is None:
            self.sums(attributes, x, grad, coefficients)
        return self._map.affine(linear, _from_zero(coefficients, linear, constant), self._scaled)


def _line(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    return coefficients[plane.SLOPE], coefficients[plane.OFFSET]


def _from_zero(coefficients: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """The offset of slope·(x − centre) + offset as a line in x."""
    return torch.addcmul(offset, slope, coefficients[plane.CENTRE], value=-1)


def _are_near(coefficients: Tensor) -> bool:
    # Of norms with two sets of rows the rows' own, which have the largest.
    rstd = coefficients[plane.ROW_RSTD if len(coefficients) > plane.ROW_RSTD else plane.RSTD]
    return is_near(coefficients[plane.CENTRE], rstd)


def _passes(x: Tensor) -> _EagerPasses:
    return _NarrowPasses(x) if takes(x, per_sample=True) else _EagerPasses()


def unsupported(x: Tensor) -> str | None:
    """Why this form does not take the call; None if it does."""
    return None if x.device.type == "cpu" else "the eager form is written for CPUs"


IMPLEMENTATION = with_batch(with_noise(composition.composed(_passes)))

"""The passes in plain PyTorch, in the forms that are fastest on CPUs.

No pass leaves the layout of its input. Statistics are of centred values: one pass more, and right for any mean.
What decides between forms is whether PyTorch vectorises them: a sum that begins from a number per row does not where
positions are innermost, products over positions do not where channels are. The backward of PyTorch's own batch norm,
which can be asked for its two sums alone, does both sums of a pass at once in either layout.
"""

import torch
from torch import Tensor

from ganfuse.kernels.channel_norm import algebra, composition
from ganfuse.kernels.channel_norm import allocation as plane
from ganfuse.kernels.channel_norm.allocation import Attributes, accumulator
from ganfuse.kernels.channel_norm.noise import silu_bend, with_noise
from ganfuse.kernels.layout import empty, is_channels_last

_aten = torch.ops.aten


def _rows(v: Tensor) -> Tensor:
    return v[..., None, None]


def _wide(x: Tensor, channels_last: bool) -> Tensor:
    """`x` dense, in its layout and in the accumulator's type."""
    format = torch.channels_last if channels_last else torch.contiguous_format
    return x.to(accumulator(x.dtype)).contiguous(memory_format=format)


def _dot(a: Tensor, b: Tensor, channels_last: bool) -> Tensor:
    """(B, C) sums of a·b over the positions."""
    batch, channels = a.shape[:2]
    if channels_last or a.numel() == 0:
        return (a * b).sum((2, 3))
    flat = (batch * channels, 1, -1)
    return torch.bmm(a.reshape(flat), b.reshape(flat).transpose(1, 2)).view(batch, channels)


# Positions of a sample from which a call for each sample costs less than a product to be summed.
_ENOUGH_POSITIONS = 512


def _channel_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) sums of a, and of a·b, of maps that have elements."""
    zeros, ones = b.new_zeros(b.shape[1]), b.new_ones(b.shape[1])
    _, against, total = _aten.native_batch_norm_backward(
        a, b, ones, None, None, zeros, ones, True, 0.0, [False, True, True]
    )
    return total, against


def _row_sums(a: Tensor, b: Tensor, channels_last: bool) -> tuple[Tensor, Tensor]:
    """(B, C) sums of a, and of a·b, over the positions."""
    batch, channels = a.shape[:2]
    if a.numel() == 0 or (channels_last and a[0, 0].numel() < _ENOUGH_POSITIONS):
        return a.sum((2, 3)), _dot(a, b, channels_last)
    if channels_last:
        samples = [_channel_sums(a[i : i + 1], b[i : i + 1]) for i in range(batch)]
        return torch.stack([s for s, _ in samples]), torch.stack([s for _, s in samples])
    rows = (1, batch * channels, *a.shape[2:])
    total, against = _channel_sums(a.view(rows), b.view(rows))
    return total.view(batch, channels), against.view(batch, channels)


def _affine(d: Tensor, slope: Tensor, offset: Tensor, channels_last: bool, *, inplace: bool = False) -> Tensor:
    """slope·d + offset, for (B, C) slope and offset."""
    if channels_last:
        return torch.addcmul(_rows(offset), d, _rows(slope), out=d if inplace else None)
    z = d.mul_(_rows(slope)) if inplace else d * _rows(slope)
    return z.add_(_rows(offset))


class _EagerPasses:
    """Keeps the centred x of the statistics, and x − centre and act'·dy of the sums, for the apply that follows."""

    def __init__(self) -> None:
        self._from_mean: tuple[Tensor, Tensor] | None = None
        self._d: Tensor | None = None
        self._g: Tensor | None = None

    def statistics(self, x: Tensor, of_batch: bool) -> tuple[Tensor, Tensor]:
        channels_last = is_channels_last(x)
        wide = _wide(x, channels_last)
        count = composition.positions_of(x)
        mean = wide.sum((2, 3)).div_(count)
        # Where positions are innermost, sums of rows cost no more than those of channels.
        of_batch = of_batch and channels_last and wide.numel() > 0
        if of_batch:
            mean = mean.mean(0, keepdim=True)
            count *= x.shape[0]
        centred = wide - _rows(mean)
        # What rounding left in the mean of values far from 0 shows in the mean of the centred ones.
        if of_batch:
            rest, squares = (t[None] for t in _channel_sums(centred, centred))
        else:
            rest, squares = _row_sums(centred, centred, channels_last)
        rest = rest / count
        self._from_mean = centred, mean
        return mean + rest, (squares - rest.square() * count).clamp_(min=0)

    def apply(self, attributes: Attributes, x: Tensor, coefficients: Tensor) -> Tensor:
        slope, offset = coefficients[plane.SLOPE], coefficients[plane.OFFSET]
        if self._from_mean is None:
            d = self._centred(x, coefficients)
        else:
            d, mean = self._from_mean
            offset = torch.addcmul(offset, slope, mean - coefficients[plane.CENTRE])
        z = _affine(d, slope, offset, is_channels_last(x), inplace=True)
        name = attributes.activation
        if name == "relu":
            z.relu_()
        elif name == "leaky_relu":
            torch.nn.functional.leaky_relu(z, attributes.negative_slope, inplace=True)
        elif name == "silu":
            torch.nn.functional.silu(z, inplace=True)
        return z.to(x.dtype)

    def _normalised(self, x: Tensor, coefficients: Tensor) -> Tensor:
        slope, offset = coefficients[plane.SLOPE], coefficients[plane.OFFSET]
        return _affine(self._centred(x, coefficients), slope, offset, is_channels_last(x))

    def _centred(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """d, dense, in x's layout."""
        if self._d is None:
            result = empty(x.shape, is_channels_last(x), coefficients.dtype, x.device)
            self._d = torch.sub(x, _rows(coefficients[plane.CENTRE]), out=result)
        return self._d

    def _grad(self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor) -> Tensor:
        """g = act'(z)·dy, dense, in x's layout."""
        if self._g is None:
            self._g = self._through(attributes, x, grad, coefficients)
        return self._g

    def _through(self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor) -> Tensor:
        """act'(z) times any map."""
        wide = _wide(grad, is_channels_last(x))
        name = attributes.activation
        if name == "none":
            return wide
        z = self._normalised(x, coefficients)
        if name == "silu":
            return _aten.silu_backward(wide, z)  # type: ignore[no-any-return]
        slope = attributes.negative_slope if name == "leaky_relu" else 0.0
        return _aten.leaky_relu_backward(wide, z, slope, False, grad_input=z)  # type: ignore[no-any-return]

    def sums(self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor) -> tuple[Tensor, ...]:
        g = self._grad(attributes, x, grad, coefficients)
        return _row_sums(g, self._centred(x, coefficients), is_channels_last(x))

    def apply_backward(
        self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor, constant: Tensor, linear: Tensor
    ) -> Tensor:
        g = self._grad(attributes, x, grad, coefficients)
        d = self._centred(x, coefficients)
        self._d = None
        result = _affine(d, linear, constant, is_channels_last(x), inplace=True)
        return result.addcmul_(g, _rows(coefficients[plane.SLOPE])).to(x.dtype)

    def double_sums(
        self, attributes: Attributes, x: Tensor, grad: Tensor, h: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, ...]:
        channels_last = is_channels_last(x)
        g = self._grad(attributes, x, grad, coefficients)
        d, h = self._centred(x, coefficients), _wide(h, channels_last)
        sums = [*_row_sums(g, d, channels_last), *_row_sums(h, d, channels_last), _dot(h, g, channels_last)]
        if attributes.activation == "silu":
            e = self._bend(x, grad, coefficients)
            ed = e * d
            sums += [e.sum((2, 3)), *_row_sums(ed, d, channels_last)]
            sums += [_dot(e, h, channels_last), _dot(ed, h, channels_last)]
        return tuple(sums)

    def _bend(self, x: Tensor, grad: Tensor, coefficients: Tensor) -> Tensor:
        """e = act''(z)·dy of silu."""
        return silu_bend(self._normalised(x, coefficients)) * _wide(grad, is_channels_last(x))

    def apply_double_backward(
        self, attributes: Attributes, x: Tensor, grad: Tensor, h: Tensor, coefficients: Tensor, second: algebra.Second,
        needs_grad: bool, needs_x: bool,
    ) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
        slope = _rows(coefficients[plane.SLOPE])
        on_grad, on_h = _rows(second.on_grad), _rows(second.on_h)
        channels_last = is_channels_last(x)
        d, h = self._centred(x, coefficients), _wide(h, channels_last)
        silu = attributes.activation == "silu"
        q = result_grad = result_x = None
        if needs_grad or silu:
            q = _affine(d, second.q_linear, second.q_constant, channels_last).addcmul_(h, slope)
        if needs_x:
            g = self._grad(attributes, x, grad, coefficients)
            result_x = _affine(d, second.linear, second.constant, channels_last)
            result_x.addcmul_(h, on_h).addcmul_(g, on_grad)
            if silu and q is not None:
                result_x.addcmul_(self._bend(x, grad, coefficients) * q, slope)
            result_x = result_x.to(x.dtype)
        if needs_grad and q is not None:
            result_grad = self._through(attributes, x, q, coefficients).to(x.dtype)
        return result_grad, result_x


def unsupported(x: Tensor) -> str | None:
    """Why this form does not take the call; None if it does."""
    return None if x.device.type == "cpu" else "the eager form is written for CPUs"


IMPLEMENTATION = with_noise(composition.composed(_EagerPasses))

"""Passes over bfloat16 maps on CPUs that neither copy them to float32 nor round what is not a map.

PyTorch's batch norm by given statistics is slope·x + offset with float32 numbers per channel on bfloat16 maps, and its
backward gives slope·g and the sums of g and of g·(x − centre), all in float32 between one reading and one writing.
Numbers per sample make channels of all rows: one call where positions are innermost, one for each sample where
channels are.

It adds slope·x to an offset, and does not centre x first: maps whose means are far from zero are not for it
(`is_near`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ganfuse.kernels.channel_norm import eager_maps
from ganfuse.kernels.channel_norm.activations import times_slope
from ganfuse.kernels.channel_norm.allocation import Attributes
from ganfuse.kernels.layout import empty, is_channels_last

_aten = torch.ops.aten
# In standard deviations: slope·x + offset then keeps twice the digits that bfloat16 has.
_NEAR = 256.0
# Elements of a sample in channels_last from which calls of its own cost less than a copy of the map in float32.
_LEAST_SAMPLE = 1 << 14


def takes(x: Tensor, *, per_sample: bool) -> bool:
    """Whether x is a map for these passes, with numbers per sample and channel or per channel alone."""
    if x.dtype != torch.bfloat16 or x.numel() == 0:
        return False
    return not (per_sample and is_channels_last(x)) or x[0].numel() >= _LEAST_SAMPLE


def is_near(mean: Tensor, rstd: Tensor) -> bool:
    """Whether means are near enough to zero."""
    return eager_maps.is_near(mean, rstd, _NEAR)


class NarrowMap:
    """A map as pieces that PyTorch's batch norm has numbers of their own for; all numbers are in float32.

    Args:
        x: (B, C, H, W), of bfloat16.
        per_sample: whether numbers are (B, C), or (C,) and of all samples; else they are (C,).
    """

    def __init__(self, x: Tensor, *, per_sample: bool) -> None:
        self._channels_last = is_channels_last(x)
        self._per_sample = per_sample
        self._x = self._dense(x)
        self._pieces = self._pieces_of(self._x)
        self._zeros = x.new_zeros(self._pieces[0].shape[1], dtype=torch.float32)
        self._ones = torch.ones_like(self._zeros)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance."""
        # Statistics have the type of the running ones, which stay what they are.
        found = [_aten.batch_norm_update_stats(m, self._zeros, self._zeros.clone(), 0.0) for m in self._pieces]
        mean, var = map(self._joined, zip(*found))
        return mean, var

    def affine(self, slope: Tensor, offset: Tensor, plus: Sequence[Tensor] | None = None) -> Tensor:
        """slope·x + offset, and if they are given the pieces that `scaled` made."""
        result = empty(self._x.shape, self._channels_last, self._x.dtype, self._x.device)
        targets = self._pieces_of(result)
        for i, numbers in enumerate(zip(self._numbers(slope), self._numbers(offset))):
            self._write_affine(self._pieces[i], *numbers, targets[i])
            if plus is not None:
                targets[i].add_(plus[i])
        return result

    def scaled(
        self, attributes: Attributes, grad: Tensor, slope: Tensor, offset: Tensor, centre: Tensor
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """slope·g in pieces, and the sums of g and of g·(x − centre); g = act′(slope·x + offset)·grad."""
        pieces, sums = [], []
        numbers = zip(*map(self._numbers, (slope, offset, centre)))
        for x, g, (a, b, c) in zip(self._pieces, self._pieces_of(self._dense(grad)), numbers):
            g = self._through_activation(attributes, x, g, a, b)
            scaled, against, total = _aten.native_batch_norm_backward(
                g, x, a, c, self._ones, None, None, False, 0.0, [True, True, True]
            )
            pieces.append(scaled)
            sums.append((total, against))
        total, against = map(self._joined, zip(*sums))
        return pieces, total, against

    def batch_norm_backward(
        self, attributes: Attributes, needs: Sequence[bool], grad: Tensor, weight: Tensor | None, offset: Tensor,
        mean: Tensor, rstd: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
        """Gradients of x, weight and bias of a batch norm; offset = bias − rstd·weight·mean; for (C,) numbers."""
        weight = self._ones if weight is None else weight.to(rstd.dtype)
        g = self._through_activation(attributes, self._x, self._dense(grad), weight * rstd, offset)
        return _aten.native_batch_norm_backward(  # type: ignore[no-any-return]
            g, self._x, weight, None, None, mean, rstd, True, attributes.eps, list(needs)
        )

    def _through_activation(
        self, attributes: Attributes, x: Tensor, grad: Tensor, slope: Tensor, offset: Tensor
    ) -> Tensor:
        if attributes.activation == "none":
            return grad
        z = torch.empty_like(x)
        self._write_affine(x, slope, offset, z)
        return times_slope(z, attributes.activation, attributes.negative_slope, grad, overwrite=True)

    def _write_affine(self, x: Tensor, slope: Tensor, offset: Tensor, target: Tensor) -> None:
        unused = slope.new_empty(0), slope.new_empty(0)
        torch.native_batch_norm(x, slope, offset, self._zeros, self._ones, False, 0.0, 0.0, out=(target, *unused))

    def _dense(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last if self._channels_last else torch.contiguous_format)

    def _pieces_of(self, x: Tensor) -> list[Tensor]:
        if not self._per_sample:
            return [x]
        return [x[i : i + 1] for i in range(len(x))] if self._channels_last else [x.view(1, -1, *x.shape[2:])]

    def _numbers(self, v: Tensor) -> list[Tensor]:
        if not self._per_sample:
            return [v]
        v = v.expand(self._x.shape[:2])
        return list(v.contiguous().unbind(0)) if self._channels_last else [v.reshape(-1)]

    def _joined(self, numbers: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(numbers)).view(self._x.shape[:2] if self._per_sample else self._x.shape[1:2])

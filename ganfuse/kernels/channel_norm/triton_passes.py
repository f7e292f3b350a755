"""Launchers of the passes over feature maps.

What depends only on sizes, strides and types is worked out once and kept: small layers are bound by the host.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ganfuse.kernels.autograd import Tensors
from ganfuse.kernels.channel_norm import algebra, configs
from ganfuse.kernels.channel_norm.allocation import NOISE, Attributes, accumulator, is_noisy
from ganfuse.kernels.channel_norm.triton_backward import norm_apply_backward, norm_sums
from ganfuse.kernels.channel_norm.triton_double_backward import norm_apply_double_backward, norm_double_sums
from ganfuse.kernels.channel_norm.triton_forward import norm_apply, norm_statistics
from ganfuse.kernels.channel_norm.triton_rows import norm_rows, norm_rows_backward
from ganfuse.kernels.launch import launch, target_of
from ganfuse.kernels.layout import MapView, alignment_unit, empty, is_channels_last, view


class _Plan(NamedTuple):
    """What a launch takes besides its pointers."""

    grid: tuple[int, int]
    numbers: tuple[int, ...]
    constants: dict[str, Any]
    splits: int
    chunk: int
    num_warps: int


@functools.lru_cache(maxsize=4096)
def _plan(
    kernel: str,
    target: str,
    dtype: torch.dtype,
    channels_last: bool,
    shape: tuple[int, int, int],
    strides: tuple[int, ...],
    sums: bool,
    activation: str,
    negative_slope: float,
) -> _Plan:
    batch, channels, positions = shape
    held = configs.choose_held if kernel in configs.HELD else None
    choose = held or configs.choose
    config = choose(kernel, target, dtype.itemsize, channels_last, batch, channels, positions)
    assert config is not None
    unit = alignment_unit(channels if channels_last else positions, *strides)
    numbers = [stride // unit for stride in strides]
    numbers += [batch, channels // unit if channels_last else channels]
    numbers += [positions if channels_last else positions // unit]
    if held is None:
        numbers += [config.splits, config.chunk] if sums else [config.chunk]
    row_blocks = batch * -(-channels // config.rows) if channels_last else -(-(batch * channels) // config.rows)
    constants = {
        "ROWS": config.rows,
        "BLOCK": config.block,
        "UNIT": unit,
        "CHANNELS_LAST": channels_last,
        "EVEN": positions % config.block == 0,
        "EVEN_ROWS": (channels if channels_last else batch * channels) % config.rows == 0,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
    }
    if activation:
        constants["ACTIVATION"] = activation
        constants["SLOPE"] = negative_slope if activation == "leaky_relu" else 0.0
    return _Plan((row_blocks, config.splits), tuple(numbers), constants, config.splits, config.chunk, config.num_warps)


class Noise(NamedTuple):
    """What passes know of noise and prologue: pointers (noise, strength, bias) and constants; none for a plain norm."""

    pointers: tuple[Tensor, Tensor, Tensor]
    constants: dict[str, Any]

    @property
    def is_prologue(self) -> bool:
        return bool(self.constants.get("PROLOGUE"))

    @property
    def num_sums(self) -> int:
        """Of the backward's first pass: see `norm_sums`."""
        has_noise = int(bool(self.constants.get("NOISE")))
        return 2 + (3 + 3 * has_noise if self.is_prologue else has_noise)


def _no_noise(x: Tensor) -> Noise:
    # A pointer that the kernel does not follow must still be one.
    return Noise((x, x, x), {})


def _noise_of(attributes: Attributes, inputs: Tensors) -> Noise:
    x, (noise, strength, bias) = inputs[0], inputs[NOISE:]
    which = ""
    if noise is not None:
        which = "own" if noise.shape[0] > 1 else "shared"
        noise = noise.reshape(noise.shape[0], -1).contiguous()
    constants = {
        "NOISE": which,
        "BIAS": bias is not None,
        "PROLOGUE": attributes.prologue,
        "PROLOGUE_SLOPE": attributes.prologue_slope if attributes.prologue == "leaky_relu" else 0.0,
    }
    vectors = (x if v is None else v.contiguous() for v in (strength, bias))
    return Noise((x if noise is None else noise, *vectors), constants)  # type: ignore[arg-type]


class Map:
    """A feature map as the passes over it see it: `x` read in place, and what every one of them needs to know."""

    def __init__(self, x: Tensor, attributes: Attributes | None, inputs: Tensors | None = None) -> None:
        batch, channels, height, width = x.shape
        self.attributes = attributes
        self.channels_last = is_channels_last(x)
        self.shape = (batch, channels, height * width)
        self.x = view(x, self.channels_last)
        self.dtype, self.device = x.dtype, x.device
        self.target = target_of(x.device)
        self.noise = _no_noise(x)
        if inputs is not None and attributes is not None and is_noisy(attributes, inputs):
            self.noise = _noise_of(attributes, inputs)

    def empty(self) -> MapView:
        """An uninitialised map like x."""
        return view(empty(self.x.tensor.shape, self.channels_last, self.dtype, self.device), self.channels_last)

    def view(self, other: Tensor) -> MapView:
        """`other`, of x's shape, in x's layout and type."""
        return view(other.to(self.dtype), self.channels_last)

    def _start(
        self, function: Any, kernel: str, views: list[MapView], others: list[Tensor], num_sums: int = 0,
        tensors: list[Tensor] | None = None, noise: "Noise | None" = None, more: tuple[int, ...] = (), **flags: Any,
    ) -> "Partials | None":  # fmt: skip
        """Run a pass.

        Args:
            views: the maps whose strides it takes, in order. others: its other pointers.
            num_sums: how many partial sums it writes, if it does. tensors: maps, where they are not those of views.
            noise: for passes that know of it; its pointers come after x. more: numbers behind the others.
        """
        strides = tuple(stride for v in views for stride in v[1:])
        activation, slope = "", 0.0
        if self.attributes is not None:
            activation, slope = self.attributes.activation, self.attributes.negative_slope
        plan = _plan(
            kernel, self.target, self.dtype, self.channels_last, self.shape, strides, num_sums > 0, activation, slope
        )
        partials = None
        if num_sums:
            rows = self.shape[0] * self.shape[1]
            memory = torch.empty((num_sums, plan.splits, rows), dtype=accumulator(self.dtype), device=self.device)
            partials = Partials(memory, plan.splits, plan.chunk)
            others = [*others, memory]
        pointers = [*(tensors or [v.tensor for v in views]), *others]
        if noise is not None:
            pointers[1:1] = noise.pointers
            flags |= noise.constants
        launch(
            function, plan.grid, self.device, [*pointers, *plan.numbers, *more], {**plan.constants, **flags},
            num_warps=plan.num_warps, num_stages=1,
        )  # fmt: skip
        return partials

    def statistics(self) -> "Partials":
        """Mean and centred square sum of each chunk of each row."""
        attributes, self.attributes = self.attributes, None
        # Noise after the affine map is none of the statistics' business.
        noise = self.noise if self.noise.is_prologue else _no_noise(self.x.tensor)
        partials = self._start(norm_statistics, "statistics", [self.x], [], 2, noise=noise)
        self.attributes = attributes
        assert partials is not None
        return partials

    def holds(self, kernel: str) -> bool:
        """Whether that pass keeps whole rows on chip, at this size."""
        batch, channels, positions = self.shape
        at = (self.target, self.dtype.itemsize, self.channels_last, batch, channels, positions)
        return configs.choose_held(kernel, *at) is not None

    def rows(self, coefficients: Tensor, gain: Tensor | None, bias: Tensor | None, strides: tuple[int, int]) -> Tensor:
        """The whole forward of statistics per row; writes the coefficients."""
        assert self.attributes is not None
        y = self.empty()
        self._start(
            norm_rows, "rows", [self.x, y], [coefficients if p is None else p for p in (gain, bias, coefficients)],
            noise=self.noise, more=strides, UNBIASED=self.attributes.unbiased, EPS=self.attributes.eps,
            HAS_GAIN=gain is not None, HAS_BIAS=bias is not None,
        )  # fmt: skip
        return y.tensor

    def rows_backward(self, grad: MapView, coefficients: Tensor, sums: list[Tensor | None]) -> Tensor:
        """The gradient of x, and into `sums` per row those of gain, bias, strength and the prologue's bias."""
        assert self.attributes is not None
        result = self.empty()
        flags: dict[str, Any] = dict(zip(("GAIN", "SUM_BIAS", "STRENGTH", "SHIFT"), (t is not None for t in sums)))
        self._start(
            norm_rows_backward, "rows_backward", [self.x, grad, result],
            [coefficients, *(coefficients if t is None else t for t in sums)],
            noise=self.noise, UNBIASED=self.attributes.unbiased, **flags,
        )  # fmt: skip
        return result.tensor

    def apply(self, coefficients: Tensor) -> Tensor:
        """act(slope·(u − centre) + offset (+ noise))."""
        y = self.empty()
        kernel = "noisy_apply" if self.noise.constants else "apply"
        self._start(norm_apply, kernel, [self.x, y], [coefficients], noise=self.noise)
        return y.tensor

    def sums(self, grad: MapView, coefficients: Tensor) -> "Partials":
        """Σg and Σg·d, and what noise and prologue need besides."""
        kernel, count = ("noisy_sums", self.noise.num_sums) if self.noise.constants else ("sums", 2)
        partials = self._start(norm_sums, kernel, [self.x, grad], [coefficients], count, noise=self.noise)
        assert partials is not None
        return partials

    def apply_backward(self, grad: MapView, coefficients: Tensor, linears: Tensor) -> Tensor:
        """The gradient of x, from (constant, linear) planes."""
        result = self.empty()
        self._start(
            norm_apply_backward, "apply_backward", [self.x, grad, result], [coefficients, linears], noise=self.noise
        )
        return result.tensor

    def double_sums(self, grad: MapView, h: MapView, coefficients: Tensor) -> "Partials":
        """The five sums, or ten for silu."""
        assert self.attributes is not None
        count = 10 if self.attributes.activation == "silu" else 5
        partials = self._start(norm_double_sums, "double", [self.x, grad, h], [coefficients], count)
        assert partials is not None
        return partials

    def apply_double_backward(
        self, grad: MapView, h: MapView, coefficients: Tensor, second: Tensor, needs_grad: bool, needs_x: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """(∂dy, ∂x), from the planes of `algebra.Second`."""
        on_grad = self.empty() if needs_grad else None
        on_x = self.empty() if needs_x else None
        result = on_grad or on_x
        if result is None:
            return None, None
        self._start(
            norm_apply_double_backward, "double", [self.x, grad, h, result], [coefficients, second],
            tensors=[v.tensor for v in (self.x, grad, h, on_grad or result, on_x or result)],
            GRAD=needs_grad, X=needs_x,
        )  # fmt: skip
        return (on_grad.tensor if on_grad else None), (on_x.tensor if on_x else None)


class Partials(NamedTuple):
    """Results (count, splits, B·C) of each chunk of `chunk` positions of each row."""

    memory: Tensor
    splits: int
    chunk: int


class TritonPasses:
    """The passes as `composition.Passes`, for arithmetic between them in PyTorch."""

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        positions = x.shape[2] * x.shape[3]
        memory, splits, chunk = Map(x, None).statistics()
        mean, squares = memory.view(2, splits, *x.shape[:2])
        if splits == 1:
            return mean[0], squares[0]
        sizes = [min(chunk, positions - split * chunk) for split in range(splits)]
        counts = torch.tensor(sizes, dtype=mean.dtype, device=mean.device)[:, None, None]
        # From the first chunk's mean: a mean that is large beside the deviation costs no digits.
        apart = mean - mean[0]
        shift = (apart * counts).sum(0) / positions
        return mean[0] + shift, squares.sum(0) + (counts * (apart - shift).square()).sum(0)

    def apply(self, attributes: Attributes, x: Tensor, coefficients: Tensor) -> Tensor:
        return Map(x, attributes).apply(coefficients)

    def sums(self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor) -> tuple[Tensor, ...]:
        at = Map(x, attributes)
        return self._summed(x, at.sums(at.view(grad), coefficients))

    def _summed(self, x: Tensor, partials: Partials) -> tuple[Tensor, ...]:
        return partials.memory.sum(1).view(-1, *x.shape[:2]).unbind(0)

    def apply_backward(
        self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor, constant: Tensor, linear: Tensor
    ) -> Tensor:
        at = Map(x, attributes)
        return at.apply_backward(at.view(grad), coefficients, torch.stack([constant, linear]))

    def double_sums(
        self, attributes: Attributes, x: Tensor, grad: Tensor, h: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, ...]:
        at = Map(x, attributes)
        return self._summed(x, at.double_sums(at.view(grad), at.view(h), coefficients))

    def apply_double_backward(
        self, attributes: Attributes, x: Tensor, grad: Tensor, h: Tensor, coefficients: Tensor, second: algebra.Second,
        needs_grad: bool, needs_x: bool,
    ) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
        at = Map(x, attributes)
        planes = torch.stack([v.expand(x.shape[:2]) for v in second])
        return at.apply_double_backward(at.view(grad), at.view(h), coefficients, planes, needs_grad, needs_x)

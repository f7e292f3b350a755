"""Convolutions with the nearest-neighbour upsampling before them or the 2×2 mean behind them in one layer."""

from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from ganfuse.kernels import conv2d_downsample, upsample_conv2d
from ganfuse.kernels.resampled_conv2d.choice import checked_form
from ganfuse.kernels.resampled_conv2d.op import PADDING_MODES

LayerT = TypeVar("LayerT", bound="_ResampledConv2d")


class _ResampledConv2d(nn.Conv2d):
    """A convolution that keeps the size, with nn.Conv2d's parameters."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        padding_mode: str = "zeros",
        form: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(kernel_size, bool) or kernel_size not in (1, 3):
            raise ValueError(f"kernel_size must be 1 or 3, got {kernel_size!r}")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(map(repr, PADDING_MODES))}, got {padding_mode!r}")
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        super().__init__(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias,
            padding_mode=cast(Literal["zeros", "reflect"], padding_mode), device=device, dtype=dtype,
        )  # fmt: skip
        self.form = None if form is None else checked_form(form, "form")

    @classmethod
    def from_torch(cls: type[LayerT], module: nn.Conv2d, *, form: str | None = None) -> LayerT:
        """A layer that takes over a PyTorch layer's parameters: the same objects, so optimisers stay valid.

        The resampling beside `module` is then this layer's, and to be removed. `ganfuse.spectral_norm` and the like are
        for the result: a weight that is computed by them is none of the module's parameters.

        Raises:
            ValueError: `module` is another layer, does not keep the size, or computes its weight.
        """
        if not isinstance(module, nn.Conv2d):
            raise ValueError(f"module: expected nn.Conv2d, got {type(module).__name__}")
        if not isinstance(module._parameters.get("weight"), nn.Parameter):
            raise ValueError("module: expected a layer whose weight is a parameter; remove its normalisation first")
        size = module.kernel_size[0]
        fits = module.kernel_size == (size, size) and size in (1, 3)
        fits = fits and module.padding in ((size // 2,) * 2, "same") and module.stride == (1, 1)
        if not (fits and module.dilation == (1, 1) and module.groups == 1 and module.padding_mode in PADDING_MODES):
            raise ValueError(f"module: expected a 1×1 or 3×3 convolution that keeps the size, got {module}")
        new = cls(
            module.in_channels, module.out_channels, size, bias=module.bias is not None,
            padding_mode=module.padding_mode, form=form, device="meta",
        )  # fmt: skip
        new._parameters.update(module._parameters)
        return new.train(module.training)

    @property
    def sums_taps(self) -> bool:
        """Whether the folded form computes its kernel from sums of the weight's taps."""
        return self.kernel_size == (3, 3)

    def extra_repr(self) -> str:
        form = "" if self.form is None else f", form={self.form!r}"
        return f"{super().extra_repr()}{form}"  # type: ignore[no-untyped-call]


class UpsampleConv2d(_ResampledConv2d):
    """Nearest-neighbour ×2, then a convolution that keeps the size: (B, C, H, W) → (B, out_channels, 2H, 2W).

    As ``nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(…, padding=kernel_size // 2))``, but for a 3×3 kernel with
    16 multiply-adds in place of 36, for 1×1 with one in place of four, where that is faster
    (`ganfuse.kernels.upsample_conv2d`). Parameters are those of nn.Conv2d, whose subclass this is.

    Args:
        in_channels, out_channels: of the convolution.
        kernel_size: 1 or 3.
        bias: learn one.
        padding_mode: at the high resolution: ``"zeros"`` or ``"reflect"``.
        form: ``"auto"``, ``"plain"`` or ``"folded"``; None follows the environment variable ``GANFUSE_CONV_FORM``.

    Raises:
        ValueError: for arguments out of range, and an input that does not fit.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, 2H, 2W)."""
        return upsample_conv2d(x, self.weight, self.bias, padding_mode=self.padding_mode, form=self.form)


class Conv2dDownsample(_ResampledConv2d):
    """A convolution that keeps the size, then the mean of 2×2 squares: (B, C, H, W) → (B, out_channels, H/2, W/2).

    As ``nn.Sequential(nn.Conv2d(…, padding=kernel_size // 2), nn.AvgPool2d(2))``, but for a 3×3 kernel with 16
    multiply-adds in place of 36, for 1×1 with one in place of four, where that is faster
    (`ganfuse.kernels.conv2d_downsample`). The arguments and parameters are those of `UpsampleConv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H // 2, W // 2)."""
        return conv2d_downsample(x, self.weight, self.bias, padding_mode=self.padding_mode, form=self.form)

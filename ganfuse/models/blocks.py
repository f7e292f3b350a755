"""Residual blocks that several systems share."""

from collections.abc import Callable

from torch import Tensor, nn

from ganfuse.models.layer_factory import LayerFactory

__all__ = ["DownBlock", "UpBlock"]


class UpBlock(nn.Module):
    """The residual block of generators that doubles the resolution (Miyato & Koyama 2018, figure 14).

    BN, ReLU, ×2 nearest, 3×3, BN, ReLU, 3×3, beside a ×2 nearest, 1×1 shortcut. Upsampling convolutions work at the low
    resolution: the same result for 16/36 and a quarter of the work.

    Args:
        inputs, outputs: channels.
        norm: from a number of channels to the normalisation with its activation, called with a map and the condition.
        layers: makes the convolutions.
    """

    def __init__(self, inputs: int, outputs: int, *, norm: Callable[[int], nn.Module], layers: LayerFactory) -> None:
        super().__init__()
        self.bn1 = norm(inputs)
        self.conv1 = layers.upsample_conv2d(inputs, outputs, 3)
        self.bn2 = norm(outputs)
        self.conv2 = layers.conv2d(outputs, outputs, 3)
        self.conv_sc = layers.upsample_conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, 2H, 2W)."""
        given = () if condition is None else (condition,)
        h: Tensor = self.conv1(self.bn1(x, *given))
        h = self.conv2(self.bn2(h, *given))
        shortcut: Tensor = self.conv_sc(x)
        return h + shortcut


class DownBlock(nn.Module):
    """The residual block of discriminators, that halves the resolution if `downsample` (figure 14 of the same).

    ReLU, 3×3, ReLU, 3×3, 2×2 mean, beside a 1×1, 2×2 mean shortcut (identity if nothing changes); the first block
    of a network sees pixels and has no first ReLU (`preactivation=False`). With `activated_shortcut` the first ReLU is
    in front of the shortcut, too. Convolutions in front of means work at the
    low resolution: the same result for 16/36 and a quarter of the work.

    Args:
        inputs, outputs: channels.
        downsample, preactivation, activated_shortcut: see above.
        layers: makes the convolutions.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        downsample: bool = True,
        preactivation: bool = True,
        activated_shortcut: bool = False,
        layers: LayerFactory,
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.preactivation = preactivation
        self.activated_shortcut = activated_shortcut
        self.layers = layers
        self.conv1 = layers.conv2d(inputs, outputs, 3)
        last = layers.conv2d_downsample if downsample else layers.conv2d
        self.conv2 = last(outputs, outputs, 3)
        self.conv_sc = last(inputs, outputs, 1) if downsample or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H/2, W/2), or the same size without `downsample`."""
        start = self.layers.activate(x) if self.preactivation else x
        x = start if self.activated_shortcut else x
        h: Tensor = self.conv1(start)
        h = self.conv2(self.layers.activate(h, inplace=True))
        shortcut: Tensor = x if self.conv_sc is None else self.conv_sc(x)
        return h + shortcut

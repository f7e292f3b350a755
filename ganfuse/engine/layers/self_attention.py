"""The self-attention layer of SAGAN (Zhang et al. 2018, arXiv 1805.08318) and of BigGAN."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers.spectral_norm import spectral_norm
from ganfuse.kernels import feature_attention


class SelfAttention2d(nn.Module):
    """Every position of a feature map attends to all others; the result is added to the input, scaled by γ from 0.

    ``y = x + γ · o(softmax_over_keys(θ(x)ᵀ φ(x)) · g(x))``, where query θ, key φ, value g and output o are 1×1
    convolutions without bias, and the products are not divided by √d (SAGAN, section 3, equations 1 to 3). With
    `pool_keys`, keys and values are 2×2 max-pooled first, to a quarter of the products: so do the authors' own code of
    SAGAN, though the paper does not say it, and BigGAN. An odd last row or column has no part in the pooled keys.

    Parameters are named as in BigGAN-PyTorch (``theta``, ``phi``, ``g``, ``o``, ``gamma``). γ has no dimensions, as
    there, because PyTorch loads a γ of shape (1,), other codebases' form, into that, but not the other way round.

    Args:
        channels: C of the input (B, C, H, W) and of the output.
        query_channels: channels of query and key; None: C // 8, at least 1.
        value_channels: channels of the value; None: C // 2, at least 1.
        pool_keys: max-pool keys and values 2×2.
        spectral: normalise the four convolutions spectrally (`ganfuse.engine.layers.spectral_norm`).

    Raises:
        ValueError: for channels below 1, an input of another shape, and with `pool_keys` one smaller than 2×2.

    Example::

        attention = SelfAttention2d(64, pool_keys=True)
        y = attention(torch.randn(8, 64, 32, 32))  # the input itself until γ has learnt otherwise
    """

    def __init__(
        self,
        channels: int,
        *,
        query_channels: int | None = None,
        value_channels: int | None = None,
        pool_keys: bool = False,
        spectral: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        query_channels = max(channels // 8, 1) if query_channels is None else query_channels
        value_channels = max(channels // 2, 1) if value_channels is None else value_channels
        for key, value in (
            ("channels", channels),
            ("query_channels", query_channels),
            ("value_channels", value_channels),
        ):
            if value < 1:
                raise ValueError(f"{key} must be at least 1, got {value}")
        self.channels = channels
        self.query_channels = query_channels
        self.value_channels = value_channels
        self.pool_keys = pool_keys
        self.spectral = spectral

        def conv1x1(inputs: int, outputs: int) -> nn.Conv2d:
            conv = nn.Conv2d(inputs, outputs, 1, bias=False, device=device, dtype=dtype)
            return spectral_norm(conv) if spectral else conv

        self.theta = conv1x1(channels, query_channels)
        self.phi = conv1x1(channels, query_channels)
        self.g = conv1x1(channels, value_channels)
        self.o = conv1x1(value_channels, channels)
        self.gamma = nn.Parameter(torch.zeros((), device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f"x: expected (B, {self.channels}, H, W), got {tuple(x.shape)}")
        query, key, value = self.theta(x), self.phi(x), self.g(x)
        if self.pool_keys:
            if min(x.shape[2:]) < 2:
                raise ValueError(f"x: pool_keys needs a map of at least 2×2, got {tuple(x.shape)}")
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        attended = self.o(feature_attention(query, key, value))
        return torch.addcmul(x, self.gamma.to(attended.dtype), attended)

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, query_channels={self.query_channels}, value_channels={self.value_channels}, "
            f"pool_keys={self.pool_keys}, spectral={self.spectral}"
        )

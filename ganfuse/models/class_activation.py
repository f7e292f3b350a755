"""Attention by class activation maps, as U-GAT-IT has it (Kim et al. 2020, arXiv 1907.10830, section 2.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.kernels import bias_act

__all__ = ["ClassActivationAttention", "heat_map"]


class ClassActivationAttention(nn.Module):
    """(B, features, H, W) to attended maps of the same shape and the logits (B, 2) of two auxiliary classifiers.

    One classifier sees the maps' means, one their maxima: ``a = ⟨w_gap, mean x⟩``, ``m = ⟨w_gmp, max x⟩``. What each
    channel was worth to them weighs the maps, of which a 1×1 convolution makes ``features`` again:
    ``y = act(C [w_gap ∘ x, w_gmp ∘ x] + c)``. The weights are those of channels, the same for all images, so they go
    into the convolution, ``C_gap diag(w_gap) + C_gmp diag(w_gmp)``: the same result from one product of half the size,
    without the maps weighed twice and laid side by side.

    Args:
        features: channels.
        negative_slope: of the leaky ReLU at the end; 0: ReLU.
        spectral: normalise both classifiers spectrally. Each is a matrix of one row, whose largest singular value is
            its length, so that no power method is needed.
        raw_attention: with `spectral`, weigh the maps by the weights before the normalisation, as the authors' PyTorch
            code does; their TensorFlow code, of which the paper's figures are, weighs by the normalised ones.
    """

    def __init__(
        self, features: int, *, negative_slope: float = 0.0, spectral: bool = False, raw_attention: bool = False
    ) -> None:
        super().__init__()
        self.features = features
        self.negative_slope = negative_slope
        self.spectral = spectral
        self.raw_attention = raw_attention
        self.gap_fc = nn.Linear(features, 1, bias=False)
        self.gmp_fc = nn.Linear(features, 1, bias=False)
        self.conv = nn.Conv2d(2 * features, features, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raw = torch.cat([self.gap_fc.weight, self.gmp_fc.weight])
        weights = F.normalize(raw, dim=1, eps=1e-12) if self.spectral else raw
        pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))], 1)
        logits = (pooled * weights.to(pooled.dtype)).sum(2)
        attention = raw if self.raw_attention else weights
        halves = self.conv.weight.view(self.features, 2, self.features)
        folded = (halves * attention).sum(1)[:, :, None, None]
        mixed = F.conv2d(x, folded)
        act = "lrelu" if self.negative_slope else "relu"
        alpha = self.negative_slope if self.negative_slope else None
        attended = bias_act(mixed, self.conv.bias, act=act, alpha=alpha, gain=1.0)
        return attended, logits


def heat_map(attended: Tensor, size: tuple[int, int]) -> Tensor:
    """Where the attention looks: the sum of the attended maps over the channels, (B, 1, *size), each image in [0, 1].

    Bilinearly enlarged; an image that is looked at everywhere alike is 0.
    """
    total = attended.float().sum(1, keepdim=True)
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    spread = high - low
    scaled = torch.where(spread > 0, (total - low) / spread.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
    return F.interpolate(scaled, size, mode="bilinear", align_corners=False)

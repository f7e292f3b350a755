"""The mapping network of StyleGAN and StyleGAN2: from latents z, and classes, to latents w that steer every layer."""

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import EqualizedLinear
from ganfuse.engine.moving_average import MovingAverage
from ganfuse.kernels import pixel_norm
from ganfuse.kernels.precision import without_autocast
from ganfuse.models.checks import check_labels, check_latents, check_positive, check_range

__all__ = ["MappingNetwork"]


class MappingNetwork(nn.Module):
    """z (B, latent_dim) and labels (B,) to w (B, features), in the weights' type whatever autocast says.

    Karras et al. 2019 (StyleGAN, arXiv 1812.04948), section 2 and appendix C: z is divided by its root mean square,
    then linear layers with leaky ReLUs follow that learn `lr_multiplier` times as slowly as others. Labels are embedded
    linearly and normalised likewise (Karras et al. 2020, arXiv 2006.06676, appendix C). The network keeps the moving
    average of w, w̄ = E_z f(z), for the truncation trick (appendix B of the first).

    Args:
        latent_dim: of z; 0: w depends on the labels alone.
        features: of w and of the layers between.
        num_layers: how many.
        num_classes: None: there are no labels.
        gain, activation_gain: as in `EqualizedLinear`: √2 and 1 in StyleGAN, 1 and None in StyleGAN2.
        lr_multiplier: 0.01 in both.
        average_decay: of w̄ from turn to turn, 0.995 in both; None: it is not kept.
    """

    def __init__(
        self,
        latent_dim: int,
        features: int,
        *,
        num_layers: int = 8,
        num_classes: int | None = None,
        gain: float = 1.0,
        activation_gain: float | None = None,
        lr_multiplier: float = 0.01,
        average_decay: float | None = 0.995,
    ) -> None:
        super().__init__()
        check_positive(features=features, num_layers=num_layers)
        check_range(0, float("inf"), latent_dim=latent_dim)
        if latent_dim == 0 and num_classes is None:
            raise ValueError("latent_dim: expected at least 1 for a network without classes, got 0")
        self.latent_dim = latent_dim
        self.features = features
        self.num_classes = num_classes
        self.num_layers = num_layers
        self.embed = None if num_classes is None else EqualizedLinear(num_classes, features)
        inputs = latent_dim + (0 if num_classes is None else features)
        for index in range(num_layers):
            layer = EqualizedLinear(
                inputs if index == 0 else features,
                features,
                activation="leaky_relu",
                gain=gain,
                activation_gain=activation_gain,
                lr_multiplier=lr_multiplier,
            )
            self.add_module(f"fc{index}", layer)
        self.w_avg = None if average_decay is None else MovingAverage(features, decay=average_decay)

    def forward(self, z: Tensor | None, labels: Tensor | None = None, *, observe: bool = False) -> Tensor:
        """w; z is None for a network without.

        Args:
            z, labels: see above.
            observe: count these w in the moving average.
        """
        if (z is None) != (self.latent_dim == 0):
            raise ValueError(f"z: expected {'None' if z is not None else f'(B, {self.latent_dim})'}, got the opposite")
        if z is not None:
            check_latents(z, self.latent_dim)
        n = z.shape[0] if z is not None else 0 if labels is None else labels.shape[0]
        check_labels(labels, n, self.num_classes)
        w: Tensor = without_autocast(self._map, z, labels)
        if observe and self.w_avg is not None:
            self.w_avg.observe(w)
        return w

    def _map(self, z: Tensor | None, labels: Tensor | None) -> Tensor:
        dtype = self.get_parameter("fc0.weight").dtype
        parts = [] if z is None else [pixel_norm(z.to(dtype))]
        if self.embed is not None and labels is not None:
            classes = torch.arange(self.embed.in_features, device=labels.device)
            parts.append(pixel_norm(self.embed((labels[:, None] == classes).to(dtype))))
        w = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        for index in range(self.num_layers):
            w = self.get_submodule(f"fc{index}")(w)
        return w

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        """w̄ + psi · (w − w̄). StyleGAN, appendix B; 1 changes nothing, 0 gives the mean."""
        if self.w_avg is None:
            raise ValueError("truncation: this network keeps no moving average (average_decay=None)")
        return w if psi == 1.0 else torch.lerp(self.w_avg.value.to(w.dtype), w, psi)

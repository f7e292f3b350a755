"""What the generators of StyleGAN and StyleGAN2 share: latents w for every layer, mixed and truncated."""

import math

import torch
from torch import Tensor, nn

from ganfuse.models.checks import check_choice
from ganfuse.models.mapping_network import MappingNetwork

__all__ = ["NOISE_MODES", "StyleGenerator", "check_truncation"]

NOISE_MODES = ("random", "const", "none")


def check_truncation(truncation: object, cutoff: object) -> None:
    """Raises ValueError for a ψ that is no number, or a number of layers that is none."""
    if isinstance(truncation, bool) or not isinstance(truncation, int | float) or not math.isfinite(truncation):
        raise ValueError(f"truncation: expected a finite number, got {truncation!r}")
    if cutoff is not None and (isinstance(cutoff, bool) or not isinstance(cutoff, int) or cutoff < 0):
        raise ValueError(f"truncation_cutoff: expected a whole number of layers or None, got {cutoff!r}")


class StyleGenerator(nn.Module):
    """A mapping network, z to w, and a synthesis network that takes a w for each of its layers.

    Args:
        mapping: see `MappingNetwork`.
        synthesis: from ws (B, layers, features) to images.
    """

    def __init__(self, mapping: MappingNetwork, synthesis: nn.Module) -> None:
        super().__init__()
        self.mapping = mapping
        self.synthesis = synthesis
        self.latent_dim = mapping.latent_dim

    def styles(
        self,
        z: Tensor,
        labels: Tensor | None,
        layers: int,
        *,
        mixed: tuple[Tensor, Tensor] | None = None,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Tensor:
        """ws (B, layers, features). In training mode w̄ takes note of the w of z.

        Args:
            z: (B, latent_dim). labels: (B,); None without classes.
            layers: how many there are.
            mixed: style mixing (StyleGAN, section 3.1): further latents (B, latent_dim), and the number of the layer,
                an integer tensor of one element, from which on they are used in place of z.
            truncation: ψ of the truncation trick, see `MappingNetwork.truncate`.
            truncation_cutoff: truncate only the first so many layers; None: all.
        """
        w = self.mapping(z, labels, observe=self.training)
        ws: Tensor = w.unsqueeze(1).expand(-1, layers, -1)
        if mixed is not None:
            second, crossover = mixed
            other = self.mapping(second, labels).unsqueeze(1)
            # A mask on the device and no slice, since the crossover is not known in Python.
            layer = torch.arange(layers, device=w.device).view(1, -1, 1)
            ws = torch.where(layer < crossover, ws, other)
        return self.truncate(ws, truncation, truncation_cutoff)

    def truncate(self, ws: Tensor, truncation: float, cutoff: int | None = None) -> Tensor:
        """ws (B, layers, features) with the first `cutoff` layers (None: all) drawn towards w̄; see `styles`."""
        check_truncation(truncation, cutoff)
        if truncation == 1.0:
            return ws
        cutoff = ws.shape[1] if cutoff is None else min(cutoff, ws.shape[1])
        return torch.cat([self.mapping.truncate(ws[:, :cutoff], truncation), ws[:, cutoff:]], 1)

    def noise_mode(self, chosen: str | None) -> str:
        """The mode that is meant: by default new noise in training mode and the same for all in evaluation mode."""
        if chosen is None:
            return "random" if self.training else "const"
        check_choice("noise_mode", chosen, NOISE_MODES)
        return chosen

"""What the readers of StyleGAN and StyleGAN2 share: means of w and noise that a checkpoint lacks, buffers of ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ganfuse.models.mapping_network import MappingNetwork

__all__ = ["check_filters", "drawn_noise", "kept_buffers", "mean_style"]

_SEED = 0
_LATENTS = 4096
_PART = 512


def kept_buffers(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our own buffers that have no part in the result: filters, which were compared, and sums of an average."""
    ours = re.compile(r".*(resample_filter|w_avg\._sum|w_avg\._count)")
    return {key: value for key, value in module.state_dict().items() if ours.fullmatch(key) and key not in tensors}


@torch.no_grad()
def mean_style(mapping: MappingNetwork, tensors: Mapping[str, Tensor], prefix: str = "mapping.") -> Tensor:
    """The mean w of 4096 latents that are always the same, of a mapping network filled with the tensors below `prefix`.

    For codebases that compute it when they need it.

    Raises:
        ValueError: a weight is missing, or of another shape than the network's.
    """
    for key, value in mapping.named_parameters():
        found = tensors.get(prefix + key)
        if found is None or found.shape != value.shape:
            shape = "there is none" if found is None else f"got {tuple(found.shape)}"
            raise ValueError(f"checkpoint: expected a tensor {prefix}{key} of shape {tuple(value.shape)}, {shape}")
        value.copy_(found)
    latents = torch.randn(_LATENTS, mapping.latent_dim, generator=torch.Generator().manual_seed(_SEED))
    return torch.stack([mapping(z).mean(0) for z in torch.split(latents, _PART)]).mean(0)


def drawn_noise(size: int, layer: int) -> Tensor:
    """Standard normal noise (size, size), for constant noise that a checkpoint does not hold; always the same."""
    return torch.randn(size, size, generator=torch.Generator().manual_seed(layer))


def check_filters(tensors: Mapping[str, Tensor], pattern: str, expected: Tensor, taps: str) -> dict[str, Tensor]:
    """The tensors without those whose whole names match `pattern`, all of which must be the expected filter.

    Raises:
        ValueError: one is another.
    """
    filters = {key for key in tensors if re.fullmatch(pattern, key)}
    for key in filters:
        value = tensors[key]
        # Some codebases keep a copy for each channel, in which dimensions of one stand for groups.
        fits = value.shape[-2:] == expected.shape and torch.allclose(value, expected.expand_as(value))
        if not fits:
            raise ValueError(f"checkpoint: {key} is another filter than that of the taps {taps}")
    return {key: value for key, value in tensors.items() if key not in filters}

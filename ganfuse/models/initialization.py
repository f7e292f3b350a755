"""Initial weights that several systems share."""

from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def normal_weights(network: ModuleT, std: float = 0.02) -> ModuleT:
    """Convolutions and linear layers from N(0, std²), gains of batch normalisation from N(1, std²), biases 0.

    Radford et al. 2016 (DCGAN, arXiv 1511.06434), section 4.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, std)
        elif isinstance(module, _NormBase) and getattr(module, "weight", None) is not None:
            nn.init.normal_(module.weight, 1.0, std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    return network

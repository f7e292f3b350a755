"""Initial weights that several systems share."""

from typing import TypeVar

from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def normal_weights(network: ModuleT, std: float = 0.02) -> ModuleT:
    """Weights of convolutions and linear layers from N(0, std²), biases 0 (DCGAN, Radford et al. 2016, section 3)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network

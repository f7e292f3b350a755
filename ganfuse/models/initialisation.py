"""How the networks of the first generations of GANs begin."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["normal_"]


def normal_(network: nn.Module, std: float = 0.02) -> None:
    """Weights from N(0, std²), gains of batch normalisation from N(1, std²), all biases 0.

    Radford et al. 2016 (DCGAN, arXiv 1511.06434), section 4: std = 0.02. Networks without gains, and further kinds of
    layers, stay as they are there.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, std)
        elif isinstance(layer, _NormBase) and layer.weight is not None:
            nn.init.normal_(layer.weight, 1.0, std)
        else:
            continue
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)

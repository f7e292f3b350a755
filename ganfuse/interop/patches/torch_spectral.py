"""PyTorch's spectral normalisation: which layers have it, and the check that ours computes the same."""

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm as TorchParametrization
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm as TorchSpectralNorm

from ganfuse.engine.layers.fuse_spectral_norms import fuse_spectral_norms
from ganfuse.engine.layers.spectral_norm import SpectralNorm
from ganfuse.interop.patches.comparing import compare_functions, copied

__all__ = ["torch_normalised", "wrong_spectral_norm"]


def torch_normalised(module: nn.Module) -> bool:
    """Whether `fuse_spectral_norms` finds a weight of this module's own that PyTorch's code normalises."""
    if any(isinstance(hook, TorchSpectralNorm) for hook in module._forward_pre_hooks.values()):
        return True
    if not is_parametrized(module):
        return False
    lists: Any = module.parametrizations
    return any(
        len(some) == 1 and type(some[0]) is TorchParametrization and some.original.dim() > 1 for some in lists.values()
    )


def wrong_spectral_norm(module: nn.Module) -> str | None:
    """What the fused normalisation of copies of a layer does otherwise than PyTorch's; None: nothing."""
    for training in (True, False):
        layers = [copied(module).train(training) for _ in range(2)]
        parameters = list(layers[0].parameters()), list(layers[1].parameters())
        fuse_spectral_norms(layers[1])
        # Without the batch of a whole model, which is computed by the same functions.
        wrong = compare_functions(
            partial(_weight, layers[0]), partial(_weight, layers[1]), (), {},
            parameters, [name for name, _ in module.named_parameters()],
        )  # fmt: skip
        if wrong is not None:
            return wrong
    return None


def _weight(module: Any) -> list[Tensor]:
    hooks = [h for h in module._forward_pre_hooks.values() if isinstance(h, TorchSpectralNorm | SpectralNorm)]
    for hook in hooks:
        hook(module, ())
    if hooks:
        return [getattr(module, hook.name) for hook in hooks]
    return [getattr(module, name) for name in module.parametrizations]

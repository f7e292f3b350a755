"""Spectral normalisation: PyTorch's through `fuse_spectral_norms`, BigGAN-PyTorch's in the same batches.

BigGAN-PyTorch's layers compute their weight in a method ``W_()`` from a buffer ``u0`` of shape (1, rows), write the
singular value to ``sv0``, and take a step from u in evaluation too, without storing it.
"""

import copy
from typing import Any

from torch import Tensor, nn

from ganfuse.engine.layers.fuse_spectral_norms import FusedSpectralNorms, NormalisedLayer
from ganfuse.engine.layers.spectral_norm import PowerMethod, remove_hooks
from ganfuse.interop.patches.checking import adopt_checked
from ganfuse.interop.patches.swapping import PREFIX, Site
from ganfuse.kernels.spectral_normalize import normalise_batch

__all__ = ["adopt_norm", "batch_norms", "is_adopted", "is_fused", "left_spectral", "normalises_itself", "unbatch_norms"]

_POWER = f"{PREFIX}power"


class _Power(PowerMethod):
    """When the power method of such a layer steps. It keeps no v."""

    style = "biggan"

    def __init__(self, n_power_iterations: int) -> None:
        self.n_power_iterations = n_power_iterations

    def step(self, training: bool) -> tuple[int, bool, bool]:
        if training and not (self.hold and self.stepped):
            return self.n_power_iterations, False, True
        return 1, False, False


class _Layer(NormalisedLayer):
    def __init__(self, owner: Any) -> None:
        super().__init__(owner)
        self.method = owner.__dict__[_POWER]
        self.eps = owner.eps
        self.dim = int(owner.transpose)

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        weight, u = _tensors(self.owner)
        return weight, u, u


class _Batch(FusedSpectralNorms):
    """The hooks of a model whose layers were patched."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Batch":
        return _Batch(copy.deepcopy(self.layers, memo))

    def __reduce__(self) -> Any:
        # A pickle holds the layers unpatched, which take nothing from here.
        return _Batch, ([],)


def normalises_itself(module: nn.Module) -> bool:
    """Whether a module has the attributes of BigGAN-PyTorch's spectral normalisation, with one singular value."""
    kind = type(module)
    weight = module._parameters.get("weight")
    return bool(
        callable(getattr(kind, "W_", None))
        and {"u0", "sv0"} <= set(module._buffers)
        and all(hasattr(module, name) for name in ("num_svs", "num_itrs", "eps", "transpose"))
        and weight is not None
        and module.num_svs == 1
        and (not module.transpose or weight.dim() == 2)
    )


def left_spectral(module: nn.Module) -> str | None:
    """Why a module that has such attributes is not even tried; None for other modules."""
    if callable(getattr(type(module), "W_", None)) and getattr(module, "num_svs", 1) != 1:
        return f"it follows {module.num_svs} singular values, of which one alone divides the weight"
    return None


def adopt_norm(module: Any, site: Site) -> None:
    """Patch such a layer: it computes its weight in our way, and takes one that was computed ahead where there is."""
    module.__dict__[_POWER] = _Power(int(module.num_itrs))
    adopt_checked(module, {"W_": _normalised_weight}, site)


def _normalised_weight(self: Any) -> Tensor:
    method: _Power = self.__dict__[_POWER]
    prepared = method.prepared
    weight = method.take()
    if weight is not None and prepared is not None:
        if prepared.stores:
            self.sv0.fill_(prepared.batch.sigmas[prepared.index].detach())
        return weight
    own, u = _tensors(self)
    steps, _, stores = method.step(self.training)
    batch = normalise_batch(
        [own], [u], None, [int(self.transpose)], dtype=None, n_power_iterations=steps, eps=self.eps, first="v"
    )
    if stores:
        batch.store()
        method.stepped = True
        self.sv0.fill_(batch.sigmas[0].detach())
    result: Tensor = batch.weights[0]
    return result


def _tensors(module: Any) -> tuple[Tensor, Tensor]:
    return module.weight, module.u0.view(-1)


def is_adopted(module: nn.Module) -> bool:
    """Whether `adopt_norm` was applied to a module."""
    return _POWER in module.__dict__


def is_fused(module: nn.Module) -> bool:
    """Whether spectral norms below a module are computed in its forward already."""
    # One without layers is what a pickle holds.
    return any(isinstance(hook, FusedSpectralNorms) and hook.layers for hook in module._forward_pre_hooks.values())


def batch_norms(model: nn.Module, layers: list[nn.Module]) -> None:
    """Compute the weights of patched layers at once in each forward of `model`."""
    unbatch_norms(model)
    batch = _Batch([_Layer(layer) for layer in layers])
    model.register_forward_pre_hook(batch, prepend=True)
    model.register_forward_hook(batch.finish, always_call=True)


def unbatch_norms(model: nn.Module) -> None:
    """Undo `batch_norms`, if it was done."""
    for hook in list(model._forward_pre_hooks.values()):
        if isinstance(hook, _Batch):
            remove_hooks(model, hook)

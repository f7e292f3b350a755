"""All spectrally normalised weights of a model in one batch per forward, instead of a dozen launches for each.

A pre-hook at the model computes the weights, each layer takes its own when its turn comes, and a hook after the model's
forward stores the vectors of the layers that did. So u moves exactly as often as unfused: a layer that was not called
stays as it was, one that is called again, or from outside the model, computes for itself as before.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm as TorchParametrization
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm as TorchSpectralNorm

from ganfuse.engine.layers.spectral_norm import PowerMethod, PreparedWeight, SpectralNorm, autocast_dtype, remove_hooks
from ganfuse.kernels.spectral_normalize import Normalised, normalise_batch

__all__ = ["fuse_networks", "fuse_spectral_norms", "unfuse_spectral_norms"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def fuse_spectral_norms(model: ModuleT) -> ModuleT:
    """Compute all spectrally normalised weights in `model` at once, in each of its forwards; changes and returns it.

    Finds the layers of ganfuse's `spectral_norm`, of `torch.nn.utils.spectral_norm` and of
    `torch.nn.utils.parametrizations.spectral_norm` (where it is the only parametrisation of its weight). On GPUs a
    training forward is six launches for all of them, and a backward three. Under autocast, the weights of convolutions
    and linear layers are written in autocast's type straight away.

    Weights, u, v and gradients are as unfused; so are the keys of the state dict. The fused model can be copied, moved,
    wrapped in DistributedDataParallel, averaged and compiled. All gradients being computed at once, they are there only
    at the end of the backward.

    Args:
        model: called as a whole. Layers may be called from outside it too: then they compute for themselves.

    Raises:
        ValueError: no layer in `model` is spectrally normalised, or some are fused already.
    """
    model_in_graph = getattr(model, "_orig_mod", model)  # what torch.compile wrapped
    for name, module in model_in_graph.named_modules():
        if _find(module) is not None:
            raise ValueError(f"{name or 'the model'} is fused already; call unfuse_spectral_norms on it first")
    layers = [layer for module in model_in_graph.modules() for layer in _adopt(module)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no spectrally normalised layer")
    fused = FusedSpectralNorms(layers)
    # First, because the model may be a normalised layer itself.
    model_in_graph.register_forward_pre_hook(fused, prepend=True)
    model_in_graph.register_forward_hook(fused.finish, always_call=True)
    return model


def unfuse_spectral_norms(model: ModuleT) -> ModuleT:
    """Undo `fuse_spectral_norms`: every layer computes for itself again, by the code it had. Returns `model`.

    Raises:
        ValueError: `model` is not one that `fuse_spectral_norms` was applied to.
    """
    model_in_graph = getattr(model, "_orig_mod", model)
    fused = _find(model_in_graph)
    if fused is None:
        raise ValueError(f"{type(model).__name__} is not fused")
    remove_hooks(model_in_graph, fused)
    for layer in fused.layers:
        layer.release()
    return model


def fuse_networks(game: nn.Module, names: Iterable[str]) -> list[str]:
    """Apply `fuse_spectral_norms` to those of a game's networks that have something to fuse, and nothing fused yet.

    Args:
        names: of submodules of `game`, each called as a whole, as `nn.Module.get_submodule` takes them.

    Returns:
        The names of the networks that are fused now and were not before.
    """
    changed = []
    for name in dict.fromkeys(names):
        network = game.get_submodule(name)
        fused = [found for part in game.modules() if (found := _find(part)) is not None]
        taken = {layer.owner for some in fused for layer in some.layers}
        parts = list(getattr(network, "_orig_mod", network).modules())
        if any(_find(part) is not None for part in parts):
            continue
        if any(_adoptable(part) and part not in taken for part in parts):
            fuse_spectral_norms(network)
            changed.append(name)
    return changed


class FusedSpectralNorms:
    """The model's pre-hook, and the hook that follows its forward."""

    active = False

    def __init__(self, layers: list["NormalisedLayer"]) -> None:
        self.layers = layers

    def __getstate__(self) -> dict[str, Any]:
        """For copies: one that is made in the middle of a forward is not in one."""
        return {"layers": self.layers}

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        # A replica of DataParallel shares this hook with the model, whose layers are on another device.
        if self.active or getattr(module, "_is_replica", False):
            return
        self.active = True
        groups: dict[Any, list[NormalisedLayer]] = {}
        for layer in self.layers:
            method = layer.method
            steps = method.step(layer.training())
            groups.setdefault((steps, layer.eps, method.first, layer.autocast_dtype()), []).append(layer)
        for ((steps, with_v, stores), eps, first, dtype), members in groups.items():
            tensors = [layer.tensors() for layer in members]
            batch = normalise_batch(
                [w for w, _, _ in tensors], [u for _, u, _ in tensors], [v for _, _, v in tensors] if with_v else None,
                [layer.dim for layer in members], dtype=dtype, n_power_iterations=steps, eps=eps, first=first,
            )  # fmt: skip
            for index, layer in enumerate(members):
                layer.method.prepared = PreparedWeight(batch, index, stores)

    def finish(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Store the vectors of the layers that took their weight."""
        if not self.active or getattr(module, "_is_replica", False):
            return
        self.active = False
        batches: list[tuple[Normalised, list[int]]] = []
        for layer in self.layers:
            method = layer.method
            prepared, method.prepared = method.prepared, None
            if prepared is None or not (prepared.taken and prepared.stores):
                continue
            method.stepped = True
            if not batches or batches[-1][0] is not prepared.batch:
                found = [indices for batch, indices in batches if batch is prepared.batch]
                if found:
                    found[0].append(prepared.index)
                    continue
                batches.append((prepared.batch, []))
            batches[-1][1].append(prepared.index)
        for batch, indices in batches:
            batch.store(indices)


class NormalisedLayer:
    """A normalised weight: where its tensors are, and what takes the prepared one.

    Attributes:
        owner: the layer.
    """

    method: PowerMethod
    eps: float
    dim: int

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """W, u and v."""
        raise NotImplementedError

    def training(self) -> bool:
        return self.owner.training

    def release(self) -> None:
        """Give the weight back to the code that computed it before."""

    def autocast_dtype(self) -> torch.dtype | None:
        """Autocast's type where it would cast this weight."""
        return autocast_dtype(self.owner, self.tensors()[0])


class _HookedLayer(NormalisedLayer):
    """A layer with a pre-hook, ganfuse's own or one that stands in for PyTorch's."""

    def __init__(self, owner: nn.Module, hook: SpectralNorm) -> None:
        super().__init__(owner)
        self.method: SpectralNorm = hook
        self.eps = hook.eps
        self.dim = hook.dim

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        name = self.method.name
        return tuple(getattr(self.owner, f"{name}_{part}") for part in ("orig", "u", "v"))  # type: ignore[return-value]

    def release(self) -> None:
        hook = self.method
        if hook.original is None:
            return
        hooks = self.owner._forward_pre_hooks
        for key, value in hooks.items():
            if value is hook:
                hooks[key] = hook.original
        remove_hooks(self.owner, hook)


class _ParametrizedLayer(NormalisedLayer):
    """A layer with PyTorch's parametrisation, whose class is ours while it is fused."""

    def __init__(self, owner: nn.Module, parametrization: ParametrizationList) -> None:
        super().__init__(owner)
        self.list = parametrization
        method = parametrization[0]
        method.__class__ = _FusedParametrization
        self.method: _FusedParametrization = method  # type: ignore[assignment]
        self.eps = method.eps  # type: ignore[assignment]
        self.dim = method.dim  # type: ignore[assignment]

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.list.original, self.method._u, self.method._v

    def training(self) -> bool:
        return self.method.training

    def release(self) -> None:
        self.method.__class__ = TorchParametrization  # type: ignore[assignment]


class _FusedParametrization(PowerMethod, TorchParametrization):
    """PyTorch's parametrisation, which takes a prepared weight where there is one. Its step computes u before v."""

    first = "u"

    def forward(self, weight: Tensor) -> Tensor:
        prepared = self.take()
        if prepared is not None:
            return prepared
        steps, _, stores = self.step(self.training)
        batch = normalise_batch(
            [weight], [self._u], [self._v], [self.dim],
            dtype=None, n_power_iterations=steps, eps=self.eps, first=self.first,
        )  # fmt: skip
        if stores:
            batch.store()
            self.stepped = True
        return batch.weights[0]  # type: ignore[no-any-return]


def _adopt(module: nn.Module) -> Iterable[NormalisedLayer]:
    yield from _hooked(module)
    for parametrization in _parametrizations(module):
        yield _ParametrizedLayer(module, parametrization)


def _adoptable(module: nn.Module) -> bool:
    """Whether `_adopt` would find something. Changes nothing."""
    hooks = module._forward_pre_hooks.values()
    return any(isinstance(hook, TorchSpectralNorm | SpectralNorm) for hook in hooks) or bool(_parametrizations(module))


def _parametrizations(module: nn.Module) -> list[ParametrizationList]:
    """Those that consist of PyTorch's spectral normalisation, of a matrix, alone."""
    if not is_parametrized(module):
        return []
    candidates: Iterable[ParametrizationList] = module.parametrizations.values()  # type: ignore[union-attr,operator,assignment]
    return [
        some
        for some in candidates
        if len(some) == 1 and type(some[0]) is TorchParametrization and some.original.dim() > 1
    ]


def _hooked(module: nn.Module) -> Iterator[NormalisedLayer]:
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, TorchSpectralNorm):
            ours = SpectralNorm(hook.name, hook.n_power_iterations, hook.eps, hook.dim)
            ours.original = hook
            module._forward_pre_hooks[key] = hook = ours
            module.register_forward_hook(ours.release, always_call=True)
            setattr(module, ours.name, getattr(module, ours.name).detach())
        if isinstance(hook, SpectralNorm):
            yield _HookedLayer(module, hook)


def _find(module: nn.Module) -> FusedSpectralNorms | None:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, FusedSpectralNorms):
            return hook
    return None

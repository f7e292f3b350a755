"""Spectral normalisation of a layer's weight (Miyato et al. 2018, arXiv 1802.05957).

Each training forward takes one step of the power method on the weight W as a matrix, rows = output channels,

    v ← Wᵀu / ‖Wᵀu‖     u ← Wv / ‖Wv‖     σ = uᵀWv     Ŵ = W / σ

and the layer computes with Ŵ. u and v are constants to autograd, as in every implementation (section 2.1), so that

    dW = (dŴ − ⟨dŴ, Ŵ⟩ u vᵀ) / σ

The state is that of `torch.nn.utils.spectral_norm` (``weight_orig``, ``weight_u``, ``weight_v``), so that checkpoints
go both ways. `fuse_spectral_norms` computes the weights of a whole model at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm as TorchParametrization
from torch.nn.utils.spectral_norm import SpectralNorm as TorchSpectralNorm

from ganfuse.kernels.precision import arithmetic_dtype
from ganfuse.kernels.spectral_normalize import Normalised, normalise_batch

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Layers whose operation autocast would cast the weight for.
_CAST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Linear, nn.Bilinear)
STYLES = ("torch", "biggan")


def spectral_norm(
    module: ModuleT,
    *,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    name: str = "weight",
    dim: int | None = None,
    style: str = "torch",
) -> ModuleT:
    """Divide a layer's weight by its largest singular value, in every forward; changes and returns `module`.

    The power method steps once per forward in training mode (under ``no_grad`` too), never in eval mode (see `style`).
    Between forwards, ``module.weight`` is the weight last computed with, detached. See `hold_spectral_norms` for the
    same u in several forwards, `fuse_spectral_norms` for whole models on GPUs.

    Args:
        module: a convolution, transposed convolution, linear or embedding layer, or any module with a weight of
            at least two dimensions. Its parameter `name` becomes ``name_orig``; buffers ``name_u`` (rows,) and
            ``name_v`` (columns,) join it.
        n_power_iterations: steps of the power method per training forward.
        eps: smallest norm that is divided by. A zero weight stays zero, and its u is kept.
        name: which parameter.
        dim: which dimension of the weight is the rows; default 1 for transposed convolutions, else 0.
        style: how σ comes about in eval mode. ``"torch"``: from the stored u and v, as in torch.nn.utils.spectral_norm.
            ``"biggan"``: from one step that starts at the stored u and is not stored, as in BigGAN-PyTorch.

    Raises:
        ValueError: for a missing, lazy or one-dimensional parameter, one that is normalised already, and arguments
            out of range.
    """
    if n_power_iterations < 1:
        raise ValueError(f"n_power_iterations must be at least 1, got {n_power_iterations}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(map(repr, STYLES))}, got {style!r}")
    if _find(module, name) is not None:
        raise ValueError(f"{type(module).__name__}.{name} is spectrally normalised already")
    weight = module._parameters.get(name)
    if weight is None:
        raise ValueError(f"spectral_norm needs a parameter {name!r}, and {type(module).__name__} has none")
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise ValueError(f"{type(module).__name__}.{name} is lazy: run the module once before spectral_norm")
    if weight.dim() < 2:
        raise ValueError(f"{name}: spectral_norm needs 2 or more dimensions, got shape {tuple(weight.shape)}")
    if isinstance(module, nn.Embedding) and (module.sparse or module.max_norm is not None):
        raise ValueError("spectral_norm needs an Embedding with sparse=False and max_norm=None")
    if dim is None:
        dim = 1 if isinstance(module, _TRANSPOSED) else 0
    if not 0 <= dim < weight.dim():
        raise ValueError(f"dim must be in 0..{weight.dim() - 1} for a weight of shape {tuple(weight.shape)}, got {dim}")

    rows = weight.shape[dim]
    with torch.no_grad():
        u = F.normalize(weight.new_empty(rows).normal_(), dim=0, eps=eps)
        v = F.normalize(weight.new_empty(weight.numel() // rows if rows else 0).normal_(), dim=0, eps=eps)
    del module._parameters[name]
    module.register_parameter(f"{name}_orig", weight)
    module.register_buffer(f"{name}_u", u)
    module.register_buffer(f"{name}_v", v)
    # Shares its storage with the parameter, so that an init function applied to `module.weight` still reaches it.
    setattr(module, name, weight.detach())

    norm = SpectralNorm(name, n_power_iterations, eps, dim, style)
    module.register_forward_pre_hook(norm)
    module.register_forward_hook(norm.release, always_call=True)
    return module


def remove_spectral_norm(module: ModuleT, *, name: str = "weight") -> ModuleT:
    """Undo `spectral_norm`: the normalised weight (as in eval mode) becomes the parameter again. Returns `module`.

    Raises:
        ValueError: if the parameter `name` of `module` is not normalised by `spectral_norm`.
    """
    norm = _find(module, name)
    if norm is None:
        raise ValueError(f"{type(module).__name__}.{name} is not normalised by ganfuse's spectral_norm")
    original = getattr(module, f"{name}_orig")
    with torch.no_grad():
        weight = norm.normalised(module, iterate=False)
    remove_hooks(module, norm)
    delattr(module, name)
    delattr(module, f"{name}_orig")
    delattr(module, f"{name}_u")
    delattr(module, f"{name}_v")
    module.register_parameter(name, nn.Parameter(weight.detach(), requires_grad=original.requires_grad))
    return module


@contextmanager
def hold_spectral_norms(model: nn.Module) -> Iterator[None]:
    """Inside, the power method of each layer of `model` steps in its first training forward only.

    Later forwards take the stored u and v: for recipes where the discriminator sees real and generated images with the
    same weights. Each forward has a graph of its own. For `spectral_norm` layers, and all that `fuse_spectral_norms`
    found in `model`. Inside another one for the same layers it changes nothing: the outer one holds them to its end.

    Raises:
        ValueError: a layer of `model` is normalised by PyTorch's own code, which steps whenever it likes.
    """
    for name, module in model.named_modules():
        if normalised_by_torch(module):
            raise ValueError(
                f"hold_spectral_norms: {name or 'the model'} is normalised by PyTorch's spectral_norm, which cannot be "
                "held; apply fuse_spectral_norms to the model first, which takes over all but combined parametrisations"
            )
    holders = [hook for module in model.modules() for hook in spectral_hooks(module) if not hook.hold]
    for hook in holders:
        hook.hold, hook.stepped = True, False
    try:
        yield
    finally:
        for hook in holders:
            hook.hold = hook.stepped = False


class PreparedWeight:
    """A weight that was computed ahead of its layer's forward, with vectors that are stored if the layer takes it."""

    def __init__(self, batch: Normalised, index: int, stores: bool) -> None:
        self.batch = batch
        self.index = index
        self.stores = stores
        self.taken = False


class PowerMethod:
    """When and how the power method of one weight steps; takes a prepared weight where there is one.

    Attributes:
        prepared: set for the duration of a forward of the model that `fuse_spectral_norms` was applied to.
        hold, stepped: see `hold_spectral_norms`.
    """

    first = "v"
    n_power_iterations: int
    style = "torch"
    prepared: PreparedWeight | None = None
    hold = False
    stepped = False

    def __getstate__(self) -> dict[str, Any]:
        """For copies: without what concerns the forward, or the turn, in the middle of which they are made."""
        return {key: value for key, value in vars(self).items() if key not in ("prepared", "hold", "stepped")}

    def step(self, training: bool) -> tuple[int, bool, bool]:
        """How many iterations the next weight takes, whether it starts with the stored v, whether it stores u and v."""
        if training and not (self.hold and self.stepped):
            return self.n_power_iterations, True, True
        if self.style == "biggan" and not training:
            return 1, False, False
        return 0, True, False

    def take(self) -> Tensor | None:
        """The prepared weight, once."""
        prepared = self.prepared
        if prepared is None:
            return None
        if not prepared.taken:
            prepared.taken = True
            return prepared.batch.weights[prepared.index]  # type: ignore[no-any-return]
        # A second call within one forward of the model steps again, from where the first one left.
        self.prepared = None
        if prepared.stores:
            prepared.batch.store([prepared.index])
            self.stepped = True
        return None


class SpectralNorm(PowerMethod):
    """The forward pre-hook that `spectral_norm` installs. Its state is in the module's buffers.

    Attributes:
        original: the hook of torch.nn.utils.spectral_norm that this one stands in for, if any.
    """

    def __init__(self, name: str, n_power_iterations: int, eps: float, dim: int, style: str = "torch") -> None:
        self.name = name
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        self.dim = dim
        self.style = style
        self.original: Any = None

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        weight = self.take()
        if weight is None:
            dtype = autocast_dtype(module, getattr(module, f"{self.name}_orig"))
            weight = self.normalised(module, iterate=module.training, dtype=dtype)
        setattr(module, self.name, weight)

    def release(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Forward hook: let go of the graph, which would outlive the step and keep `module` from being deep-copied."""
        setattr(module, self.name, getattr(module, self.name).detach())

    def normalised(self, module: nn.Module, *, iterate: bool, dtype: torch.dtype | None = None) -> Tensor:
        """W / σ, differentiable, in the weight's shape and layout, and its type if `dtype` names no other.

        With `iterate`, u and v move first.
        """
        weight: Tensor = getattr(module, f"{self.name}_orig")
        u: Tensor = getattr(module, f"{self.name}_u")
        v: Tensor = getattr(module, f"{self.name}_v")
        steps, with_v, stores = self.step(iterate)
        batch = normalise_batch(
            [weight], [u], [v] if with_v else None, [self.dim],
            dtype=dtype, n_power_iterations=steps, eps=self.eps, first=self.first,
        )  # fmt: skip
        if stores:
            batch.store()
            self.stepped = True
        return batch.weights[0]  # type: ignore[no-any-return]


def autocast_dtype(module: nn.Module, weight: Tensor) -> torch.dtype | None:
    """Autocast's type where autocast would cast `module`'s weight for what the module does; else None."""
    if not isinstance(module, _CAST):
        return None
    if weight.is_cpu and getattr(module, "sums_taps", False):
        # The sums are rounded once, as they are written.
        return None
    dtype = arithmetic_dtype(weight)
    return None if dtype == weight.dtype else dtype


def normalised_by_torch(module: nn.Module) -> bool:
    """Whether PyTorch's code, hook or parametrisation, computes a weight of `module`'s own."""
    if any(isinstance(hook, TorchSpectralNorm) for hook in module._forward_pre_hooks.values()):
        return True
    # Of a vector it makes a unit vector, by no power method.
    return type(module) is TorchParametrization and hasattr(module, "_u")


def spectral_hooks(module: nn.Module) -> Iterator[PowerMethod]:
    """What steps the power methods of `module`'s own weights: hooks, and fused parametrisations."""
    if isinstance(module, PowerMethod):
        yield module
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            yield hook


def power_vectors(model: nn.Module) -> list[Tensor]:
    """The vectors u and v of all spectral norms in `model`, those of PyTorch's own included: buffers, not copies."""
    vectors: dict[Tensor, None] = {}
    for module in model.modules():
        if normalised_by_torch(module) or any(True for _ in spectral_hooks(module)):
            named = module.named_buffers(recurse=False)
            vectors.update((buffer, None) for name, buffer in named if name.endswith(("_u", "_v")))
    return list(vectors)


def remove_hooks(module: nn.Module, owner: object) -> None:
    """Remove `owner` and its methods from the forward hooks of `module` (handles do not survive copying)."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if hook is owner or getattr(hook, "__self__", None) is owner:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)


def _find(module: nn.Module, name: str) -> SpectralNorm | None:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return hook
    return None

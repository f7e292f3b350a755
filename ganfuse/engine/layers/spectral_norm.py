"""Spectral normalisation of a layer's weight (Miyato et al. 2018, arXiv 1802.05957).

Each training forward takes one step of the power method on the weight W as a matrix, rows = output channels,

    v ← Wᵀu / ‖Wᵀu‖     u ← Wv / ‖Wv‖     σ = uᵀWv     Ŵ = W / σ

and the layer computes with Ŵ. u and v are constants to autograd, as in every implementation (section 2.1), so that

    dW = (dŴ − ⟨dŴ, Ŵ⟩ u vᵀ) / σ

The state is that of `torch.nn.utils.spectral_norm` (``weight_orig``, ``weight_u``, ``weight_v``), so that checkpoints
go both ways.
"""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.kernels.autograd import PositionalFunction

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def spectral_norm(
    module: ModuleT, *, n_power_iterations: int = 1, eps: float = 1e-12, name: str = "weight", dim: int | None = None
) -> ModuleT:
    """Divide a layer's weight by its largest singular value, in every forward; changes and returns `module`.

    The power method steps once per forward in training mode (under ``no_grad`` too), never in eval mode, where
    the stored u and v serve. Between forwards, ``module.weight`` is the weight last computed with, detached.

    Args:
        module: a convolution, transposed convolution, linear or embedding layer, or any module with a weight of
            at least two dimensions. Its parameter `name` becomes ``name_orig``; buffers ``name_u`` (rows,) and
            ``name_v`` (columns,) join it.
        n_power_iterations: steps of the power method per training forward.
        eps: smallest norm that is divided by. A zero weight stays zero, and its u is kept.
        name: which parameter.
        dim: which dimension of the weight is the rows; default 1 for transposed convolutions, else 0.

    Raises:
        ValueError: for a missing, lazy or one-dimensional parameter, one that is normalised already, and arguments
            out of range.
    """
    if n_power_iterations < 1:
        raise ValueError(f"n_power_iterations must be at least 1, got {n_power_iterations}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
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

    norm = SpectralNorm(name, n_power_iterations, eps, dim)
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
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if hook is norm or getattr(hook, "__self__", None) is norm:
                del hooks[key]
                module._forward_hooks_always_called.pop(key, None)
    delattr(module, name)
    delattr(module, f"{name}_orig")
    delattr(module, f"{name}_u")
    delattr(module, f"{name}_v")
    module.register_parameter(name, nn.Parameter(weight.detach(), requires_grad=original.requires_grad))
    return module


class SpectralNorm:
    """The forward pre-hook that `spectral_norm` installs. It has no state: that is in the module's buffers."""

    def __init__(self, name: str, n_power_iterations: int, eps: float, dim: int) -> None:
        self.name = name
        self.n_power_iterations = n_power_iterations
        self.eps = eps
        self.dim = dim

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        setattr(module, self.name, self.normalised(module, iterate=module.training))

    def release(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Forward hook: let go of the graph, which would outlive the step and keep `module` from being deep-copied."""
        setattr(module, self.name, getattr(module, self.name).detach())

    def normalised(self, module: nn.Module, *, iterate: bool) -> Tensor:
        """W / σ, differentiable, in the weight's shape, type and layout; with `iterate`, u and v move first."""
        weight: Tensor = getattr(module, f"{self.name}_orig")
        device_type = weight.device.type
        if torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
            # The power method in half precision would make σ a matter of luck.
            with torch.autocast(device_type, enabled=False):
                return self._normalised(module, weight, iterate)
        return self._normalised(module, weight, iterate)

    def _normalised(self, module: nn.Module, weight: Tensor, iterate: bool) -> Tensor:
        u: Tensor = getattr(module, f"{self.name}_u")
        v: Tensor = getattr(module, f"{self.name}_v")
        if weight.numel() == 0:
            return weight.clone()
        matrix, channels = _as_matrix(weight, self.dim)
        eps = max(self.eps, torch.finfo(weight.dtype).tiny)
        with torch.no_grad():
            matrix = matrix.detach()
            if iterate:
                u, v, sigma = self._power_iterations(matrix, channels, u, v, eps)
            else:
                # Copies, because the next training forward writes the buffers that this graph would hold.
                u, v = u.clone(), v.clone()
                sigma = torch.dot(u, torch.mv(matrix, _to_matrix_order(v, channels)))
                sigma = torch.where(sigma == 0, eps, sigma)
        if torch.compiler.is_compiling():
            # Compiled graphs want plain operations: they fuse, and a penalty inside one differentiates them twice.
            return _plain_normalise(weight, u, v, self.dim, eps)
        normalised: Tensor = _Normalise.apply(weight, u, v, sigma, self.dim)[0]
        return normalised

    def _power_iterations(
        self, matrix: Tensor, channels: int | None, u_buffer: Tensor, v_buffer: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        u = u_buffer
        for _ in range(self.n_power_iterations):
            v = torch.mv(matrix.t(), u)
            v = v / torch.linalg.vector_norm(v).clamp_min(eps)
            product = torch.mv(matrix, v)
            norm = torch.linalg.vector_norm(product)
            sigma = norm.clamp_min(eps)
            u = product / sigma
        # A vanished product has no direction, and u = 0 would stay 0 for ever after: then u and v keep theirs.
        found = norm > 0
        u = torch.where(found, u, u_buffer)
        v = torch.where(found, _to_weight_order(v, channels), v_buffer)
        u_buffer.copy_(u)
        v_buffer.copy_(v)
        return u, v, sigma


class _Normalise(PositionalFunction):
    """(W, u, v, σ) → (W / σ, σ), where σ = uᵀWv is a function of W and u, v are constants.

    σ is an output so that a second derivative finds its dependence on W: the backward is plain PyTorch on outputs of
    this Function, hence differentiable to any order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        return weight / sigma, sigma.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, u, v, _, ctx.dim = inputs
        ctx.save_for_backward(output[0], u, v, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        grad_normalised, grad_sigma = grads
        normalised, u, v, sigma = ctx.saved_tensors
        shape = normalised.shape
        left = u.view(*[1] * ctx.dim, -1, *[1] * (len(shape) - ctx.dim - 1))
        right = v.view(*shape[: ctx.dim], 1, *shape[ctx.dim + 1 :])
        grad = None
        if grad_normalised is not None:
            # Three passes over the weight, where autograd of the definition makes about ten.
            inner = _inner_product(grad_normalised, normalised)
            grad = torch.addcmul(grad_normalised, left * -inner, right)
            grad = grad / sigma if torch.is_grad_enabled() else grad.div_(sigma)
        if grad_sigma is not None:
            through_sigma = grad_sigma * left * right
            grad = through_sigma if grad is None else grad + through_sigma
        return grad, None, None, None, None


def _plain_normalise(weight: Tensor, u: Tensor, v: Tensor, dim: int, eps: float) -> Tensor:
    sigma = torch.dot(u, torch.mv(weight.movedim(dim, 0).flatten(1), v))
    return weight / torch.where(sigma == 0, eps, sigma)


def _as_matrix(weight: Tensor, dim: int) -> tuple[Tensor, int | None]:
    """The weight as (rows, columns) without a copy if its layout allows, and its channels if those vary fastest."""
    if dim == 0 and _is_channels_last(weight):
        return weight.movedim(1, -1).flatten(1), weight.shape[1]
    return (weight if dim == 0 else weight.movedim(dim, 0)).flatten(1), None


def _is_channels_last(x: Tensor) -> bool:
    if x.dim() not in (4, 5) or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def _to_weight_order(v: Tensor, channels: int | None) -> Tensor:
    """From the columns of `_as_matrix` to the order in which v is stored: that of a contiguous weight."""
    return v if channels is None else v.view(-1, channels).t().reshape(-1)


def _to_matrix_order(v: Tensor, channels: int | None) -> Tensor:
    return v if channels is None else v.view(channels, -1).t().reshape(-1)


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    if _is_channels_last(b):
        a, b = a.movedim(1, -1), b.movedim(1, -1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


def _find(module: nn.Module, name: str) -> SpectralNorm | None:
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return hook
    return None

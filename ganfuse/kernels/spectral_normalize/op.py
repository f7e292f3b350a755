"""The public function: checks, choice of the backend, batches of one type and device."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ganfuse.kernels.backend import exporting, resolve_backend
from ganfuse.kernels.checks import check_tensor
from ganfuse.kernels.spectral_normalize import autograd, compiled, eager
from ganfuse.kernels.spectral_normalize.layout import readable

_OP = "spectral_normalize"


def spectral_normalize(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor] | None = None,
    *,
    dims: Sequence[int] | int | None = None,
    dtype: torch.dtype | None = None,
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    update: bool = True,
    first: str = "v",
    backend: str | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Divide each weight, as a matrix W, by an estimate σ = uᵀWv of its largest singular value.

    A step of the power method is v ← Wᵀu/‖Wᵀu‖, u ← Wv/‖Wv‖ (Miyato et al. 2018, arXiv:1802.05957, algorithm 1). For
    autograd u and v are constants: dW = (dŴ − ⟨dŴ, Ŵ⟩ uvᵀ)/σ. On GPUs all weights share a handful of launches, forward
    and backward, whatever their number and shapes; on CPUs they go one by one, which is faster there. Differentiable
    any number of times, twice with kernels.

    Args:
        weights: of any shapes with 2 or more dimensions.
        us: unit vectors (rows,), one per weight, in the weight's type.
        vs: unit vectors (columns,), columns in the order of a contiguous weight; None: computed from u.
        dims: which dimension of each weight is its rows, one for all or one each; default 0. (1 for ConvTranspose.)
        dtype: of the normalised weights (autocast's); default: the weight's own.
        n_power_iterations: steps of the power method, at least 1.
        eps: smallest norm that is divided by. A weight of zeros stays zero, and keeps its u and v.
        update: iterate, and store u (and v) in place. False with `vs`: u and v as they are, PyTorch's way to
            evaluate. False without `vs`: one step from u that is not stored, BigGAN-PyTorch's.
        first: which vector a step computes first. ``"v"``: as above, like torch.nn.utils.spectral_norm. ``"u"``, which
            needs `vs`: u ← Wv/‖Wv‖, v ← Wᵀu/‖Wᵀu‖, like torch.nn.utils.parametrizations.spectral_norm.
        backend: ``"auto"``, ``"reference"``, ``"eager"`` or ``"triton"``; None follows `ganfuse.use_backend`.

    Returns:
        The normalised weights, in the weights' memory formats, and the σ (scalars), which are differentiable too.

    Raises:
        ValueError: for lists of different lengths, shapes, types and devices that do not fit, and values out of range.
    """
    sides = _checked_dims(weights, dims)
    _check(weights, us, vs, sides, dtype, n_power_iterations, eps, update, first)
    if not update:
        n_power_iterations = 0 if vs is not None else 1
    batch = normalise_batch(
        weights,
        us,
        vs,
        sides,
        dtype=dtype,
        n_power_iterations=n_power_iterations,
        eps=eps,
        first=first,
        backend=backend,
    )
    if update:
        batch.store()
    return batch.weights, batch.sigmas


class Normalised:
    """A batch of normalised weights, with the vectors that made them not yet stored.

    Attributes:
        weights, sigmas: by layer.
    """

    def __init__(self, count: int) -> None:
        self.weights: list[Any] = [None] * count
        self.sigmas: list[Any] = [None] * count
        # Of each launch sequence: which layers are in it, and what stores the vectors of some of them.
        self._groups: list[tuple[tuple[int, ...], Callable[[list[int]], None]]] = []

    def store(self, layers: Sequence[int] | None = None) -> None:
        """Write u and v in place: of all layers, or of some. Their graphs hold copies."""
        for members, write in self._groups:
            chosen = [place for place, i in enumerate(members) if layers is None or i in layers]
            if chosen:
                with torch.no_grad():
                    write(chosen)


def normalise_batch(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor] | None,
    dims: Sequence[int],
    *,
    dtype: torch.dtype | None,
    n_power_iterations: int,
    eps: float,
    first: str,
    backend: str | None = None,
) -> Normalised:
    """`spectral_normalize` without checks; u and v are stored when `Normalised.store` is called.

    Args:
        n_power_iterations: 0 takes u and v as they are.
    """
    batch = Normalised(len(weights))
    groups: dict[Any, list[int]] = {}
    for i, (weight, u) in enumerate(zip(weights, us)):
        # Nothing to normalise in an empty weight: the eager form, on any device.
        key = i if weight.numel() == 0 else (weight.device, weight.dtype, u.dtype)
        groups.setdefault(key, []).append(i)
    for members in groups.values():
        some = [weights[i] for i in members]
        settings = autograd.Settings(
            tuple(dims[i] for i in members), dtype, n_power_iterations,
            max(eps, torch.finfo(_accumulator(some[0].dtype)).tiny), first,
        )  # fmt: skip
        kind = some[0].device.type
        parts = (batch, members, settings, some, [us[i] for i in members], [vs[i] for i in members] if vs else None)
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            # The power method in half precision would make σ a matter of luck.
            with torch.autocast(kind, enabled=False):
                _normalise(*parts, backend)
        else:
            _normalise(*parts, backend)
    return batch


def _normalise(
    batch: Normalised,
    members: list[int],
    settings: autograd.Settings,
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor] | None,
    backend: str | None,
) -> None:
    def unsupported() -> str | None:
        from ganfuse.kernels.spectral_normalize import triton

        return triton.unsupported(weights, us, vs or [])

    chosen = resolve_backend(_OP, backend, weights[0].device, triton=unsupported, eager=lambda: None)
    if chosen == "triton" and weights[0].numel():
        _by_kernels(batch, members, settings, weights, us, vs)
        return
    tracing = torch.compiler.is_compiling()
    in_graph = tracing and torch.is_grad_enabled() and not exporting()
    closed_form = chosen == "eager" and not tracing
    found: list[tuple[Tensor, Tensor]] = []
    for weight, u, dim, i in zip(weights, us, settings.dims, members):
        v = None if vs is None else vs[len(found)]
        if in_graph and weight.numel():
            *results, new_u, new_v = compiled.normalise_one(weight, u, v, dim, *settings[1:])
        else:
            *results, new_u, new_v = eager.normalise_one(weight, u, v, dim, *settings[1:], closed_form=closed_form)
        batch.weights[i], batch.sigmas[i] = results
        found.append((new_u, new_v))

    def write(chosen: list[int]) -> None:
        for place in chosen:
            us[place].copy_(found[place][0])
            if vs is not None:
                vs[place].copy_(found[place][1])

    batch._groups.append((tuple(members), write))


def _by_kernels(
    batch: Normalised,
    members: list[int],
    settings: autograd.Settings,
    weights: list[Tensor],
    us: list[Tensor],
    vs: list[Tensor] | None,
) -> None:
    u_given, v_given = [u.contiguous() for u in us], [v.contiguous() for v in vs or ()]
    normalised, sigmas, packed = autograd.normalise(settings, weights, u_given, v_given)
    for i, weight, sigma in zip(members, normalised, sigmas.unbind()):
        # One of the weights requires grad, so all results do: a frozen layer would compute gradients for nobody.
        frozen = weight.requires_grad and not weights[members.index(i)].requires_grad
        batch.weights[i], batch.sigmas[i] = weight.detach() if frozen else weight, sigma

    def write(chosen: list[int]) -> None:
        layouts = [readable(weight, dim)[1] for weight, dim in zip(weights, settings.dims)]
        some_us, some_vs = [u_given[p] for p in chosen], [v_given[p] for p in chosen] if vs else []
        autograd.update(some_us, some_vs, packed, layouts, chosen)
        for given, kept in ((u_given, us), (v_given, vs or [])):
            for place in chosen:
                if kept and given[place] is not kept[place] and given[place].data_ptr() != kept[place].data_ptr():
                    kept[place].copy_(given[place])

    batch._groups.append((tuple(members), write))


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _checked_dims(weights: Sequence[Tensor], dims: Sequence[int] | int | None) -> list[int]:
    if isinstance(weights, Tensor) or not all(isinstance(w, Tensor) for w in weights):
        raise ValueError(f"{_OP}: weights must be a list of tensors")
    for i, weight in enumerate(weights):
        check_tensor(_OP, f"weights[{i}]", weight, least_ndim=2)
    if dims is None or isinstance(dims, int):
        dims = [dims or 0] * len(weights)
    if len(dims) != len(weights):
        raise ValueError(f"{_OP}: dims must have one entry per weight, {len(weights)}, got {len(dims)}")
    for i, (weight, dim) in enumerate(zip(weights, dims)):
        if not 0 <= dim < weight.dim():
            raise ValueError(
                f"{_OP}: dims[{i}] must be in 0..{weight.dim() - 1} for shape {tuple(weight.shape)}, got {dim}"
            )
    return list(dims)


def _check(
    weights: Sequence[Tensor],
    us: Sequence[Tensor],
    vs: Sequence[Tensor] | None,
    dims: Sequence[int],
    dtype: torch.dtype | None,
    n_power_iterations: int,
    eps: float,
    update: bool,
    first: str,
) -> None:
    for name, vectors in (("us", us), ("vs", vs)):
        if vectors is None:
            continue
        if len(vectors) != len(weights):
            raise ValueError(f"{_OP}: {name} must have one entry per weight, {len(weights)}, got {len(vectors)}")
        for i, (vector, weight, dim) in enumerate(zip(vectors, weights, dims)):
            rows = weight.shape[dim]
            size = rows if name == "us" else weight.numel() // max(rows, 1)
            check_tensor(_OP, f"{name}[{i}]", vector)
            if vector.shape != (size,):
                raise ValueError(
                    f"{_OP}: {name}[{i}] must have shape ({size},) for weights[{i}] of shape {tuple(weight.shape)} "
                    f"with rows along dimension {dim}, got {tuple(vector.shape)}"
                )
            if vector.device != weight.device or vector.dtype != weight.dtype:
                raise ValueError(
                    f"{_OP}: {name}[{i}] must have the type and device of weights[{i}], {weight.dtype} on "
                    f"{weight.device}, got {vector.dtype} on {vector.device}"
                )
            if update and vector.requires_grad:
                raise ValueError(f"{_OP}: {name}[{i}] is written in place and must not require grad")
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"{_OP}: dtype must be a floating type, got {dtype}")
    if n_power_iterations < 1:
        raise ValueError(f"{_OP}: n_power_iterations must be at least 1, got {n_power_iterations}")
    if not eps > 0:
        raise ValueError(f"{_OP}: eps must be positive, got {eps}")
    if first not in ("u", "v"):
        raise ValueError(f"{_OP}: first must be 'u' or 'v', got {first!r}")
    if first == "u" and vs is None:
        raise ValueError(f"{_OP}: first='u' needs vs, which a step begins with")

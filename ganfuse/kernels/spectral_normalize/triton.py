"""Launchers of the spectral norm kernels: five launches forward, one to store u and v, three for each backward."""

from collections.abc import Sequence

import torch
import triton.language as tl
from torch import Tensor

from ganfuse.kernels.launch import launch, target_of
from ganfuse.kernels.spectral_normalize.layout import Layout, layout_of, readable
from ganfuse.kernels.spectral_normalize.triton_backward import (
    spectral_combine,
    spectral_inner_products,
    spectral_scalars,
)
from ganfuse.kernels.spectral_normalize.triton_forward import (
    spectral_products_across,
    spectral_products_down,
    spectral_sum_strips,
    spectral_update,
    spectral_write,
)
from ganfuse.kernels.spectral_normalize.work import INTERPRETED, SHIPPED, Tiles, Work, pointers, work_for

Tensors = Sequence[Tensor]

_TYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type of products, norms and σ for weights of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def tiles_for(device: torch.device) -> Tiles:
    return INTERPRETED if target_of(device) == "interpreter" else SHIPPED


class _Batch:
    """The weights of one call as the kernels read them, and the work that they are."""

    def __init__(self, weights: Tensors, dims: Sequence[int], chosen: Sequence[int] | None = None) -> None:
        pairs = [readable(weight, dim) for weight, dim in zip(weights, dims)]
        self.weights = [weight for weight, _ in pairs]
        self.layouts: tuple[Layout, ...] = tuple(layout for _, layout in pairs)
        self.chosen = tuple(range(len(weights))) if chosen is None else tuple(chosen)
        self.device = weights[0].device
        self.dtype = weights[0].dtype
        self.acc = accumulator(self.dtype)
        self.dims = tuple(dims)
        tiles = tiles_for(self.device)
        self.work: Work = work_for(self.layouts, self.chosen, tiles, self.device)
        self.tall = {"TALL": tiles.tall, "BLOCK_R": tiles.rows, "BLOCK_C": tiles.columns}
        self.wide = {"WIDE": tiles.wide, "BLOCK_R": tiles.rows, "BLOCK_C": tiles.columns}

    def empty(self, size: int) -> Tensor:
        return torch.empty(size, dtype=self.acc, device=self.device)

    def aligned(self, *tensors: Tensors) -> bool:
        if self.device.type == "meta":
            return self.work.aligned
        return self.work.aligned and all(x.data_ptr() % 16 == 0 for some in tensors for x in some)

    def pointers(self, tensors: Tensors) -> Tensor:
        return pointers(tensors, self.device)

    def start(self, kernel: object, count: int, arguments: list[object], **constants: object) -> None:
        # Two tensors are read there: with half the elements to a thread no compiler runs out of registers.
        times = 2 if kernel is spectral_inner_products else 1
        launch(
            kernel, (count,), self.device, arguments, {**constants, "ACC": _TYPES[self.acc]},
            num_warps=times * self.work.tiles.num_warps, num_stages=1,
        )  # fmt: skip


def empty_like(weight: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised tensor in the layout in which `weight` is read."""
    if layout_of(weight, dim) is None:
        return torch.empty_like(weight, dtype=dtype, memory_format=torch.contiguous_format)
    return torch.empty_like(weight, dtype=dtype)


def fake_forward(
    weights: Tensors, dims: Sequence[int], dtype: torch.dtype | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Normalised weights, σ of each, and all unit vectors one after another (u, v in memory order): uninitialised."""
    acc, device = accumulator(weights[0].dtype), weights[0].device
    normalised = [empty_like(w, dim, dtype) for w, dim in zip(weights, dims)]
    size = sum(w.shape[dim] + w.numel() // w.shape[dim] for w, dim in zip(weights, dims))
    return normalised, torch.empty(len(weights), dtype=acc, device=device), torch.empty(size, dtype=acc, device=device)


def forward(
    weights: Tensors,
    us: Tensors,
    vs: Tensors,
    dims: Sequence[int],
    dtype: torch.dtype | None,
    n_power_iterations: int,
    eps: float,
    first: str,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """What `fake_forward` allocates, computed. No iterations: u and v as stored. `vs` may be empty where not needed."""
    batch = _Batch(weights, dims)
    work, tiles = batch.work, batch.work.tiles
    normalised, sigmas, packed = fake_forward(weights, dims, dtype)
    u_squares, v_squares = batch.empty(work.u_blocks.shape[0]), batch.empty(work.v_blocks.shape[0])
    w, out, u = batch.pointers(batch.weights), batch.pointers(normalised), batch.pointers(us)
    v = batch.pointers(vs) if vs else u
    aligned = batch.aligned(batch.weights)
    types = {"ALIGNED": aligned, "WEIGHT": _TYPES[batch.dtype], "VECTOR": _TYPES[us[0].dtype]}
    sums = {"TALL": tiles.tall, "WIDE": tiles.wide, "BLOCK": tiles.vector, "VECTOR": types["VECTOR"]}
    stored = n_power_iterations == 0

    def down(of_stored: bool) -> None:
        partials = batch.empty(work.num_v_partials)
        batch.start(
            spectral_products_down, work.tall.shape[0],
            [w, u, packed, u_squares, partials, work.layers, work.tall, eps],
            STORED=of_stored, **types, **batch.tall,
        )  # fmt: skip
        batch.start(
            spectral_sum_strips, work.v_blocks.shape[0], [partials, packed, v_squares, u, work.layers, work.v_blocks],
            OF_U=False, DOT=False, **sums,
        )  # fmt: skip

    def across(of_stored: bool) -> None:
        partials = batch.empty(work.num_u_partials)
        batch.start(
            spectral_products_across, work.wide.shape[0],
            [w, v, packed, v_squares, partials, work.layers, work.wide, eps],
            STORED=of_stored, **types, **batch.wide,
        )  # fmt: skip
        batch.start(
            spectral_sum_strips, work.u_blocks.shape[0], [partials, packed, u_squares, u, work.layers, work.u_blocks],
            OF_U=True, DOT=stored, **sums,
        )  # fmt: skip

    if stored:
        across(True)
    for step in range(n_power_iterations):
        for product in (down, across) if first == "v" else (across, down):
            product(step == 0 and product is (down if first == "v" else across))
    batch.start(
        spectral_write, work.pieces.shape[0],
        [w, out, u, v, packed, sigmas, u_squares, v_squares, work.layers, work.pieces, eps],
        STORED=stored, FIRST_V=first == "v", WITH_V=bool(vs), **types, OUTPUT=_TYPES[dtype or batch.dtype],
        BLOCK=tiles.vector, FLAT=tiles.flat,
    )  # fmt: skip
    return normalised, sigmas, packed


def update(
    us: Tensors, vs: Tensors, packed: Tensor, layouts: tuple[Layout, ...], chosen: tuple[int, ...]
) -> None:  # fmt: skip
    """Write the unit vectors of the layers `chosen` into `us` and `vs` (may be empty): lists of those layers alone."""
    tiles = tiles_for(packed.device)
    work = work_for(layouts, chosen, tiles, packed.device)
    u = pointers(us, packed.device)
    v = pointers(vs, packed.device) if vs else u
    launch(
        spectral_update, (work.vectors.shape[0],), packed.device, [u, v, packed, work.layers, work.vectors],
        {"WITH_V": bool(vs), "VECTOR": _TYPES[us[0].dtype], "BLOCK": tiles.vector},
        num_warps=4, num_stages=1,
    )  # fmt: skip


def backward(
    grads: Tensors, grad_sigmas: Tensor, weights: Tensors, sigmas: Tensor, packed: Tensor, dims: Sequence[int],
    chosen: Sequence[int],
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """dW of the layers `chosen`, for which `grads` are given, and ⟨G, W⟩ of each layer."""
    batch = _Batch(weights, dims, chosen)
    work = batch.work
    ws, gs = _of(batch, batch.weights), _in_layout(batch, grads)
    results, dots = fake_backward(grads, weights, sigmas, dims, chosen)
    scalars, count = batch.empty(4 * len(batch.chosen)), work.wide.shape[0]
    partials = batch.empty(count)
    g, w, out = batch.pointers(gs), batch.pointers(ws), batch.pointers(results)
    grad_sigmas = grad_sigmas.contiguous()  # of a sum it comes expanded
    aligned = batch.aligned(ws, gs, results)
    kind, weight_kind = _TYPES[gs[0].dtype], _TYPES[batch.dtype]
    batch.start(
        spectral_inner_products, count, [g, w, packed, partials, work.layers, work.wide, count],
        OUTER=False, ALIGNED=aligned, X=kind, Y=weight_kind, **batch.wide,
    )  # fmt: skip
    batch.start(
        spectral_scalars, len(batch.chosen), [partials, sigmas, grad_sigmas, dots, dots, scalars, work.layers, count],
        SECOND=False,
    )  # fmt: skip
    batch.start(
        spectral_combine, count, [g, g, g, out, out, packed, scalars, work.layers, work.wide],
        WITH_G=False, WITH_W=True, ALIGNED=aligned, G=kind, W=weight_kind, **batch.wide,
    )  # fmt: skip
    return results, dots


def fake_backward(
    grads: Tensors, weights: Tensors, sigmas: Tensor, dims: Sequence[int], chosen: Sequence[int]
) -> tuple[list[Tensor], Tensor]:
    return [empty_like(weights[i], dims[i]) for i in chosen], _one_each(sigmas, chosen)


def double_backward(
    cotangents: Tensors, grads: Tensors, weights: Tensors, sigmas: Tensor, packed: Tensor, dots: Tensor,
    dims: Sequence[int], chosen: Sequence[int],
) -> tuple[list[Tensor], Tensor, list[Tensor]]:  # fmt: skip
    """∂G, ∂s and ∂W (total derivatives) for cotangents of the layers' dW."""
    batch = _Batch(weights, dims, chosen)
    work = batch.work
    ws, gs, hs = _of(batch, batch.weights), _in_layout(batch, grads), _in_layout(batch, cotangents)
    grad_gs, grad_sigmas, grad_ws = fake_double_backward(grads, weights, sigmas, dims, chosen)
    scalars, count = batch.empty(4 * len(batch.chosen)), work.wide.shape[0]
    partials = batch.empty(2 * count)
    g, h, w = batch.pointers(gs), batch.pointers(hs), batch.pointers(ws)
    aligned = batch.aligned(ws, gs, hs, grad_gs, grad_ws)
    kind, weight_kind = _TYPES[gs[0].dtype], _TYPES[batch.dtype]
    batch.start(
        spectral_inner_products, count, [h, g, packed, partials, work.layers, work.wide, count],
        OUTER=True, ALIGNED=aligned, X=weight_kind, Y=kind, **batch.wide,
    )  # fmt: skip
    batch.start(
        spectral_scalars, len(batch.chosen),
        [partials, sigmas, sigmas, dots, grad_sigmas, scalars, work.layers, count], SECOND=True,
    )  # fmt: skip
    batch.start(
        spectral_combine, count,
        [g, h, w, batch.pointers(grad_gs), batch.pointers(grad_ws), packed, scalars, work.layers, work.wide],
        WITH_G=True, WITH_W=True, ALIGNED=aligned, G=kind, W=weight_kind, **batch.wide,
    )  # fmt: skip
    return grad_gs, grad_sigmas, grad_ws


def fake_double_backward(
    grads: Tensors, weights: Tensors, sigmas: Tensor, dims: Sequence[int], chosen: Sequence[int]
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    grad_gs = [empty_like(weights[i], dims[i], g.dtype) for i, g in zip(chosen, grads)]
    return grad_gs, _one_each(sigmas, chosen), [empty_like(weights[i], dims[i]) for i in chosen]


def _one_each(sigmas: Tensor, chosen: Sequence[int]) -> Tensor:
    """A number per layer, 0 for those that are not chosen; where all are, they will all be written."""
    return torch.empty_like(sigmas) if len(chosen) == len(sigmas) else torch.zeros_like(sigmas)


def _of(batch: _Batch, tensors: Tensors) -> list[Tensor]:
    return [tensors[i] for i in batch.chosen]


def _in_layout(batch: _Batch, tensors: Tensors) -> list[Tensor]:
    """Gradients come expanded or in another memory format: then in a copy that lies as the weight does."""
    placed = []
    for i, x in zip(batch.chosen, tensors):
        if layout_of(x, batch.dims[i]) != batch.layouts[i]:
            x = torch.empty_like(batch.weights[i], dtype=x.dtype).copy_(x)
        placed.append(x)
    return placed


def unsupported(weights: Tensors, us: Tensors, vs: Tensors) -> str | None:
    """Why the kernels do not take this batch (of one type, on one device); None if they do."""
    if weights[0].dtype == torch.float64 and target_of(weights[0].device) not in ("interpreter", ""):
        return "float64 is for tests; the eager form is used"
    if len({x.dtype for x in (*us, *vs)}) > 1:
        return "the vectors u and v of the layers differ in type"
    return None

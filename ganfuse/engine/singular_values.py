"""The largest singular values of weights: to watch during training, and to hold down.

Brock et al. 2018, "Large Scale GAN Training", arXiv:1809.11096, section 4 and appendix: the top three singular values
of each weight tell how stable training is, and clamping the first one prevents its explosion in the generator.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ganfuse.engine.weight_matrices import WeightMatrix, weight_matrices

if TYPE_CHECKING:
    from ganfuse.engine.trainer import Trainer

__all__ = [
    "LogSingularValues",
    "PartialSVD",
    "clamp_singular_values",
    "convolution_singular_values",
    "singular_values",
    "top_singular_values",
]

_Apply = Callable[[Tensor], Tensor]


class PartialSVD(NamedTuple):
    """The largest singular values, in descending order, and their vectors: u (rows, k), s (k,), v (columns, k)."""

    u: Tensor
    s: Tensor
    v: Tensor


def top_singular_values(matrix: Tensor, k: int = 3, *, max_iterations: int = 40, tol: float = 3e-5) -> PartialSVD:
    """The k largest singular values of a matrix and their vectors, by the block Lanczos method.

    A Krylov space of MᵀM, fully orthogonalised, that begins with k + 2 fixed random vectors, so that values which are
    equal or nearly so are all found; M is read twice per iteration. A small matrix is decomposed outright.

    Args:
        matrix: (rows, columns), float.
        k: how many; at most min(rows, columns) are returned.
        max_iterations: of the method.
        tol: stop when no value has grown by more than this share of the first in two iterations.

    Returns:
        In float64 for float64, else in float32. The same on each call.

    Raises:
        ValueError: for a tensor that is not a matrix, and arguments out of range.
    """
    if matrix.dim() != 2:
        raise ValueError(f"matrix: expected 2 dimensions, got shape {tuple(matrix.shape)}")
    _check(k, max_iterations, tol)
    matrix = matrix.detach()
    matrix = matrix if matrix.dtype == torch.float64 else matrix.float()
    k = min(k, *matrix.shape)
    if k == 0:
        return PartialSVD(matrix.new_empty(len(matrix), 0), matrix.new_empty(0), matrix.new_empty(matrix.shape[1], 0))
    if min(matrix.shape) <= 8 * (k + 2):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return PartialSVD(u[:, :k], s[:k], vh[:k].t())
    return _lanczos(lambda x: matrix @ x, lambda y: matrix.t() @ y, _start(matrix, k), k, max_iterations, tol)


def convolution_singular_values(
    layer: nn.Module,
    input_size: Sequence[int],
    k: int = 3,
    *,
    weight: Tensor | None = None,
    max_iterations: int = 40,
    tol: float = 3e-5,
) -> Tensor:
    """The k largest singular values of a convolution as the linear operator that it is on maps of one size.

    They differ from those of its weight as a matrix, and depend on stride, padding and the size of the map (Sedghi et
    al. 2019, arXiv:1805.10408, for circular padding); here by the block Lanczos method on the operator itself.

    Args:
        layer: nn.Conv1d, 2d or 3d, or a transposed one.
        input_size: height and width (or what the layer has) of its input.
        weight: in place of the layer's: normalised, for example. Default: the parameter, before any normalisation.
        k, max_iterations, tol: see `top_singular_values`.

    Raises:
        ValueError: for another layer, and sizes that do not fit.
    """
    if not isinstance(layer, nn.modules.conv._ConvNd):
        raise ValueError(f"layer: expected a convolution, got {type(layer).__name__}")
    dims = len(layer.kernel_size)
    if len(input_size) != dims or min(input_size) < 1:
        raise ValueError(f"input_size: expected {dims} positive sizes, got {tuple(input_size)}")
    _check(k, max_iterations, tol)
    if weight is None:
        weight = next(iter(weight_matrices(layer))).parameter
    weight = weight.detach()
    weight = weight if weight.dtype == torch.float64 else weight.float()
    shape = (layer.in_channels, *input_size)

    def apply(x: Tensor) -> Tensor:
        maps = x.t().reshape(-1, *shape)
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            y: Tensor = layer._conv_forward(maps, weight, None)
        else:
            convolve: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[dims - 1]
            y = convolve(
                maps, weight, None, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
            )
        return y.flatten(1).t()

    def adjoint(y: Tensor) -> Tensor:
        zero = torch.zeros(math.prod(shape), y.shape[1], dtype=y.dtype, device=y.device, requires_grad=True)
        with torch.enable_grad():
            output = apply(zero)
        return torch.autograd.grad(output, zero, y)[0]

    start = _start(weight.new_empty(0, math.prod(shape)), min(k, math.prod(shape)))
    with torch.no_grad():
        return _lanczos(apply, adjoint, start, min(k, start.shape[1]), max_iterations, tol).s


def singular_values(model: nn.Module, k: int = 3, *, embeddings: bool = False) -> dict[str, Tensor]:
    """The k largest singular values of each weight matrix of a model, before any spectral normalisation, by layer name.

    Args:
        embeddings: those of embeddings too.
    """
    return {m.name: top_singular_values(m.matrix(), k).s for m in weight_matrices(model, embeddings=embeddings)}


@torch.no_grad()
def clamp_singular_values(
    model: nn.Module, *, value: float | None = None, ratio: float | None = None, tol: float = 3e-5
) -> dict[str, float]:
    """Hold down the first singular value of each weight, in place: W ← W − max(0, σ₀ − σ_clamp) u₀v₀ᵀ.

    Brock et al. 2018, section 4.1: σ_clamp is a fixed value, or a multiple of the second singular value. For
    `Game.after_step`, which is called after each move of a player.

    Args:
        model: convolutions and linear layers in it are clamped, before any spectral normalisation.
        value: σ_clamp. ratio: σ_clamp / σ₁. Exactly one of them.
        tol: accuracy of the singular values.

    Returns:
        The first singular values found, of the layers that were clamped.

    Raises:
        ValueError: unless exactly one of `value` and `ratio` is given, and positive.
    """
    if (value is None) == (ratio is None):
        raise ValueError(f"give exactly one of value and ratio, got value={value!r} and ratio={ratio!r}")
    bound = value if value is not None else ratio
    if bound is None or not bound > 0:
        raise ValueError(f"{'ratio' if value is None else 'value'}: expected a positive number, got {bound!r}")
    clamped = {}
    for weight in weight_matrices(model, embeddings=False):
        u, s, v = top_singular_values(weight.matrix(), 2, tol=tol)
        if value is None and len(s) < 2:
            continue  # a matrix of rank one has no second value to compare with
        first = s[0].item()
        limit = bound if value is not None else bound * s[1].item()
        if first > limit:
            change = (limit - first) * torch.outer(u[:, 0], v[:, 0])
            weight.add_(change.to(weight.parameter.dtype))
            clamped[weight.name] = first
    return clamped


class LogSingularValues:
    """A hook of `Trainer` that logs the top singular values of weights as "singular_values/PLAYER.LAYER/0", 1, 2.

    Args:
        every: steps between. They join the losses in the metrics at the next line that is logged.
        k: how many of each weight.
        modules: names of modules of the game; by default all of it.
        as_convolutions: also those of each convolution as an operator, see `convolution_singular_values`, on maps of
            the size on which it was first seen at work; as "convolution_singular_values/PLAYER.LAYER/0", 1, 2. Slower:
            some twenty convolutions forward and back each.

    Raises:
        ValueError: for arguments out of range.

    Example::

        Trainer(game, "digits", out="runs/a", hooks=[LogSingularValues(every=500)]).fit()
    """

    def __init__(
        self, every: int = 100, k: int = 3, modules: Sequence[str] = ("",), *, as_convolutions: bool = False
    ) -> None:
        if every < 1:
            raise ValueError(f"every: expected a positive number of steps, got {every}")
        _check(k, 1, 1e-4)
        self.every = every
        self.k = k
        self.modules = tuple(modules)
        self.as_convolutions = as_convolutions
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._watches: list[RemovableHandle] = []

    def __call__(self, trainer: "Trainer") -> None:
        if self.as_convolutions and not (self._sizes or self._watches):
            self._watch(trainer.game)
        if trainer.step % self.every:
            return
        for kind, values in self._found(trainer.game).items():
            entries = {f"{layer}/{i}": value for layer, some in values.items() for i, value in enumerate(some)}
            trainer.record.add(trainer.step, kind, entries)

    def _found(self, game: nn.Module) -> dict[str, dict[str, Tensor]]:
        found = {"singular_values": {name: top_singular_values(m.matrix(), self.k).s for name, m in self._all(game)}}
        if self._sizes:
            for watch in self._watches:
                watch.remove()
            found["convolution_singular_values"] = {
                name: convolution_singular_values(m.layer, self._sizes[name], self.k, weight=m.parameter)
                for name, m in self._all(game)
                if name in self._sizes
            }
        return found

    def _all(self, game: nn.Module) -> Iterator[tuple[str, WeightMatrix]]:
        """Weights, by name in the game."""
        for module in self.modules:
            for matrix in weight_matrices(game.get_submodule(module), embeddings=False):
                yield ".".join(part for part in (module, matrix.name) if part), matrix

    def _watch(self, game: nn.Module) -> None:
        """Find out how large the maps are that convolutions see."""

        def note(name: str) -> Callable[[nn.Module, Any], None]:
            def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
                self._sizes.setdefault(name, tuple(inputs[0].shape[2:]))

            return hook

        for name, matrix in self._all(game):
            if isinstance(matrix.layer, nn.modules.conv._ConvNd):
                self._watches.append(matrix.layer.register_forward_pre_hook(note(name)))


def _lanczos(apply: _Apply, adjoint: _Apply, start: Tensor, k: int, max_iterations: int, tol: float) -> PartialSVD:
    """Values of the operator restricted to a growing Krylov space of its adjoint times itself."""
    block = torch.linalg.qr(start)[0]
    basis, images = block, apply(block)
    newest, before = images, torch.zeros(k, dtype=start.dtype, device=start.device)
    for iteration in range(1, max_iterations):
        left_over = basis.shape[0] - basis.shape[1]
        if left_over == 0:
            break
        block = adjoint(newest)[:, :left_over]
        scale = torch.linalg.vector_norm(block)
        for _ in range(2):  # once leaves what rounding put back
            block = block - basis @ (basis.t() @ block)
        if not bool(torch.linalg.vector_norm(block) > 1e2 * torch.finfo(block.dtype).eps * scale):
            break  # the space is closed: nothing is left outside it
        block = torch.linalg.qr(block)[0]
        block = torch.linalg.qr(block - basis @ (basis.t() @ block))[0]
        newest = apply(block)
        basis, images = torch.cat([basis, block], 1), torch.cat([images, newest], 1)
        if iteration % 2 == 0:
            values = torch.linalg.svdvals(images)[:k]
            if bool(((values - before).abs() <= tol * values[0]).all()):
                break
            before = values
    left, values, right = torch.linalg.svd(images, full_matrices=False)
    return PartialSVD(left[:, :k], values[:k], basis @ right[:k].t())


def _start(matrix: Tensor, k: int) -> Tensor:
    # Seeded by its own generator: a run that is resumed computes the same as one that was not interrupted.
    generator = torch.Generator().manual_seed(0)
    columns = matrix.shape[1]
    return torch.randn(columns, min(k + 2, columns), generator=generator, dtype=matrix.dtype).to(matrix.device)


def _check(k: int, max_iterations: int, tol: float) -> None:
    if k < 1:
        raise ValueError(f"k: expected a positive number of singular values, got {k}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations: expected a positive number, got {max_iterations}")
    if not tol > 0:
        raise ValueError(f"tol: expected a positive number, got {tol}")

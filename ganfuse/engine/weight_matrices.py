"""The weights of a model that act as matrices, as its optimiser sees them: before any spectral normalisation."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from ganfuse.engine.sharded_tensors import shard_like, whole

__all__ = ["WeightMatrix", "weight_matrices"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_WITH_WEIGHTS = (*_CONVOLUTIONS, nn.Linear, nn.Embedding)


class WeightMatrix(NamedTuple):
    """A weight whose rows, one per output (or class, of an embedding), run along `dim`.

    Attributes:
        name: of the layer in the model.
        layer: the layer. parameter: its weight, before any normalisation.
    """

    name: str
    layer: nn.Module
    parameter: nn.Parameter
    dim: int

    def matrix(self) -> Tensor:
        """(rows, columns), detached; a view of the parameter where its layout allows. Gathered where it is sharded."""
        return whole(self.parameter.detach()).movedim(self.dim, 0).flatten(1)

    def add_(self, matrix: Tensor, alpha: float = 1.0) -> None:
        """parameter += alpha · matrix, in place."""
        with torch.no_grad():
            self.parameter.add_(shard_like(self.shaped(matrix), self.parameter), alpha=alpha)

    def shaped(self, matrix: Tensor) -> Tensor:
        """A matrix in the parameter's shape."""
        shape = self.parameter.movedim(self.dim, 0).shape
        return matrix.view(shape).movedim(0, self.dim)


def weight_matrices(model: nn.Module, *, embeddings: bool = True) -> Iterator[WeightMatrix]:
    """The weights of convolutions, linear layers and embeddings in `model`, each parameter once.

    A weight under spectral normalisation (ganfuse's or either of PyTorch's) is given before it.
    """
    seen: set[nn.Parameter] = set()
    for name, layer in model.named_modules():
        if not isinstance(layer, _WITH_WEIGHTS) or (isinstance(layer, nn.Embedding) and not embeddings):
            continue
        if is_parametrized(layer, "weight"):
            parameter = layer.parametrizations["weight"].original  # type: ignore[index,union-attr]
        else:
            parameter = layer._parameters.get("weight_orig", layer._parameters.get("weight"))
        if isinstance(parameter, nn.Parameter) and parameter.dim() > 1 and parameter not in seen and parameter.numel():
            seen.add(parameter)
            yield WeightMatrix(name, layer, parameter, 1 if isinstance(layer, _TRANSPOSED) else 0)

"""Spectral normalisation of a model's weights as a subject, beside PyTorch's parametrization of each layer."""

import torch
from torch import Tensor, nn

from ganfuse.bench.subject import Draw, Op, Sizes, Subject, passes_of, with_backends
from ganfuse.kernels import spectral_normalize
from ganfuse.kernels.spectral_normalize import cost

SIZES: dict[str, int] = {"layers": 16, "channels": 512, "kernel": 3}


class _Layer(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


def weights_of_layers(sizes: Sizes, draw: Draw) -> Subject:
    """All weights of `layers` square convolutions with one power iteration; weights and vectors are float32,
    normalised weights of the type that is measured, as under autocast.

    The weights have one large singular value, at whose vectors the power method stands: it stays there, call after
    call, so that all results are the same whichever order an implementation updates u and v in.
    """
    count, channels, kernel = (sizes[name] for name in SIZES)
    shape = (channels, channels, kernel, kernel)
    weights, us, vs = [], [], []
    for _ in range(count):
        noise = draw.normal(*shape, std=channels**-0.5).detach()
        u = nn.functional.normalize(draw.normal(channels).detach(), dim=0)
        v = nn.functional.normalize(draw.normal(channels * kernel**2).detach(), dim=0)
        weight = noise + 60.0 * torch.outer(u, v).view(shape)
        matrix = weight.flatten(1).double()
        u, v = u.double(), v.double()
        for _ in range(12):
            v = nn.functional.normalize(matrix.t() @ u, dim=0)
            u = nn.functional.normalize(matrix @ v, dim=0)
        weights.append(weight.requires_grad_())
        us.append(u.float())
        vs.append(v.float())
    itemsize, written = 4, draw.dtype.itemsize
    parameters, vectors = count * torch.Size(shape).numel(), count * channels * (1 + kernel**2)
    costs = passes_of(
        cost.forward(parameters, vectors, itemsize, written),
        cost.backward(parameters, vectors, itemsize, written),
        cost.double_backward(parameters, vectors, itemsize, written),
    )

    def op(*given: Tensor, backend: str) -> list[Tensor]:
        if given[0].dtype == torch.float64:
            vectors_u, vectors_v = [u.double() for u in us], [v.double() for v in vs]
            return spectral_normalize(list(given), vectors_u, vectors_v, backend=backend)[0]
        return spectral_normalize(list(given), us, vs, dtype=draw.dtype, backend=backend)[0]

    implementations = with_backends(op, draw.device, parametrization=_parametrized(weights, us, vs, draw.dtype))
    return Subject(list(weights), implementations, costs, penalised=count)


def _parametrized(weights: list[Tensor], us: list[Tensor], vs: list[Tensor], dtype: torch.dtype) -> Op:
    """PyTorch's own computation, layer by layer, on weights that are given to it."""
    parametrizations = []
    for weight, u, v in zip(weights, us, vs):
        layer: nn.Module = nn.utils.parametrizations.spectral_norm(_Layer(weight.detach().clone()))
        own: nn.Module = layer.parametrizations.weight[0]  # type: ignore[union-attr,index,assignment]
        own._u.copy_(u)  # type: ignore[operator,union-attr]
        own._v.copy_(v)  # type: ignore[operator,union-attr]
        parametrizations.append(own)
    return lambda *given: [own(weight).to(dtype) for own, weight in zip(parametrizations, given)]

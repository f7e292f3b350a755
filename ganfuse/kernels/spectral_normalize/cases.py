"""Sets of weights, of whole models, for which the kernels are compiled, inspected and timed."""

from typing import NamedTuple

import torch

from ganfuse.kernels.spectral_normalize import triton
from ganfuse.kernels.spectral_normalize.autograd import Settings
from ganfuse.kernels.spectral_normalize.layout import readable

TENSOR_CORES = False
SMALL_KERNELS = ("spectral_sum_strips", "spectral_scalars", "spectral_update")
REDUCTIONS = ("spectral_products_down", "spectral_products_across", "spectral_inner_products")
Shape = tuple[int, ...]


def _conv(*counted: tuple[int, int, int, int]) -> list[Shape]:
    return [(o, i, k, k) for count, o, i, k in counted for _ in range(count)]


def biggan_discriminator(ch: int = 96) -> list[Shape]:
    """The 23 spectrally normalised weights of BigGAN-128's discriminator (Brock et al. 2018, appendix B)."""
    c = ch
    return [
        *_conv(
            (3, 16 * c, 16 * c, 3), (1, 16 * c, 8 * c, 3), (1, 8 * c, 8 * c, 3), (1, 8 * c, 4 * c, 3),
            (1, 4 * c, 4 * c, 3), (1, 16 * c, 8 * c, 1), (1, 4 * c, 2 * c, 3), (1, 2 * c, 2 * c, 3),
            (1, 8 * c, 4 * c, 1), (1, 2 * c, c, 3), (1, c, c, 3), (1, 4 * c, 2 * c, 1), (1, 2 * c, c, 1),
            (1, c // 2, c, 1), (1, c, c // 2, 1), (1, c, 3, 3), (2, c // 8, c, 1), (1, c, 3, 1),
        ),
        (1000, 16 * c),
        (1, 16 * c),
    ]  # fmt: skip


def biggan_generator(ch: int = 96) -> list[Shape]:
    """The 41 of its generator: convolutions, the first linear layer, and gains and biases from 148 numbers."""
    c = ch
    gains = [(width * c, 148) for width, count in ((16, 6), (8, 4), (4, 4), (2, 4), (1, 2)) for _ in range(count)]
    return [
        *_conv(
            (2, 16 * c, 16 * c, 3), (1, 8 * c, 16 * c, 3), (1, 8 * c, 8 * c, 3), (1, 4 * c, 8 * c, 3),
            (1, 16 * c, 16 * c, 1), (1, 4 * c, 4 * c, 3), (1, 8 * c, 16 * c, 1), (1, 2 * c, 4 * c, 3),
            (1, 2 * c, 2 * c, 3), (1, 4 * c, 8 * c, 1), (1, c, 2 * c, 3), (1, c, c, 3), (1, 2 * c, 4 * c, 1),
            (2, c, 2 * c, 1), (1, 2 * c, c, 1), (2, c // 4, 2 * c, 1), (1, 3, c, 3),
        ),
        (256 * c, 20),
        *gains,
    ]  # fmt: skip


class Case(NamedTuple):
    """A set of weights, rows along `dim`."""

    shapes: tuple[Shape, ...]
    dtype: torch.dtype = torch.float32
    out_dtype: torch.dtype = torch.bfloat16
    dim: int = 0
    first: str = "v"
    n_power_iterations: int = 1


_D = tuple(biggan_discriminator())
CASES: dict[str, Case] = {
    "biggan-128 D bf16": Case(_D),
    "biggan-128 D fp32": Case(_D, out_dtype=torch.float32),
    "biggan-128 G bf16": Case(tuple(biggan_generator())),
    "biggan-128 D fp16": Case(_D, out_dtype=torch.float16),
    "biggan-128 D stored": Case(_D, n_power_iterations=0),
    "biggan-128 D u first": Case(_D, first="u"),
    "dcgan G": Case(((100, 1024, 4, 4), (1024, 512, 4, 4), (512, 256, 4, 4), (128, 3, 4, 4)), dim=1),
}


def alignment(case: Case) -> int:
    """Bits that are read at once: four elements, of half types where a kernel reads gradients only."""
    return 64


def unaligned_rows(case: Case) -> bool:
    """True: one launch has weights of all shapes, and branches on whether a row is a multiple of 4 elements."""
    return True


def run(case: Case) -> None:
    """Forward, update, backward and double backward on meta tensors; call it while launches are recorded."""
    weights = [torch.empty(shape, dtype=case.dtype, device="meta") for shape in case.shapes]
    dims = (case.dim,) * len(weights)
    us = [torch.empty(w.shape[case.dim], dtype=case.dtype, device="meta") for w in weights]
    vs = [torch.empty(w.numel() // w.shape[case.dim], dtype=case.dtype, device="meta") for w in weights]
    settings = Settings(dims, case.out_dtype, case.n_power_iterations, 1e-12, case.first)
    normalised, sigmas, packed = triton.forward(weights, us, vs, *settings)
    chosen = tuple(range(len(weights)))
    triton.update(us, vs, packed, tuple(readable(w, case.dim)[1] for w in weights), chosen)
    gradients, dots = triton.backward(normalised, sigmas, weights, sigmas, packed, dims, chosen)
    triton.double_backward(gradients, normalised, weights, sigmas, packed, dots, dims, chosen)

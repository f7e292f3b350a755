"""Least traffic and arithmetic of a call; `form` is "plain" or "folded", H and W the low resolution's."""

from ganfuse.kernels.cost import Cost

_MULTIPLY_ADDS = {("plain", 3): 36, ("folded", 3): 16, ("plain", 1): 4, ("folded", 1): 1}


def _flops(form: str, kernel_size: int, pairs: int, pixels: int) -> int:
    return 2 * _MULTIPLY_ADDS[form, kernel_size] * pairs * pixels


def _tensors(
    upsample: bool, batch: int, in_channels: int, out_channels: int, height: int, width: int, kernel_size: int
) -> tuple[int, int, int]:
    """Elements of x, of the weight and of the output."""
    pixels = batch * height * width
    return (
        pixels * in_channels * (1 if upsample else 4),
        in_channels * out_channels * kernel_size**2,
        pixels * out_channels * (4 if upsample else 1),
    )


def forward(
    form: str, upsample: bool, batch: int, in_channels: int, out_channels: int, height: int, width: int,
    kernel_size: int, itemsize: int,
) -> Cost:  # fmt: skip
    """Reads x and the weight; writes the output. One convolution."""
    x, weight, y = _tensors(upsample, batch, in_channels, out_channels, height, width, kernel_size)
    flops = _flops(form, kernel_size, in_channels * out_channels, batch * height * width)
    return Cost((x + weight + y) * itemsize, flops)


def backward(
    form: str, upsample: bool, batch: int, in_channels: int, out_channels: int, height: int, width: int,
    kernel_size: int, itemsize: int,
) -> Cost:  # fmt: skip
    """Reads x, the weight and grad_output; writes two gradients. Two convolutions."""
    x, weight, y = _tensors(upsample, batch, in_channels, out_channels, height, width, kernel_size)
    flops = _flops(form, kernel_size, in_channels * out_channels, batch * height * width)
    return Cost((2 * x + 2 * weight + y) * itemsize, 2 * flops)


def double_backward(
    form: str, upsample: bool, batch: int, in_channels: int, out_channels: int, height: int, width: int,
    kernel_size: int, itemsize: int,
) -> Cost:  # fmt: skip
    """Reads x, the weight, grad_output and two cotangents; writes three gradients. Four convolutions."""
    x, weight, y = _tensors(upsample, batch, in_channels, out_channels, height, width, kernel_size)
    flops = _flops(form, kernel_size, in_channels * out_channels, batch * height * width)
    return Cost((3 * x + 3 * weight + 2 * y) * itemsize, 4 * flops)

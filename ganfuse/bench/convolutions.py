"""Activations, resampling, folded and modulated convolutions as subjects, beside what PyTorch has."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.bench.subject import Draw, Sizes, Subject, passes_of, with_backends
from ganfuse.kernels import bias_act, conv2d_downsample, modulated_conv2d, setup_filter, upfirdn2d, upsample_conv2d
from ganfuse.kernels.bias_act import cost as bias_act_cost
from ganfuse.kernels.modulated_conv2d import cost as modulated_cost
from ganfuse.kernels.resampled_conv2d import cost as resampled_cost
from ganfuse.kernels.scaled_bias_act import cost as scaled_cost
from ganfuse.kernels.scaled_bias_act import scaled_bias_act
from ganfuse.kernels.upfirdn2d import cost as upfirdn_cost

SIZES: dict[str, dict[str, int]] = {
    "bias_act": {"batch": 8, "channels": 128, "side": 128},
    "scaled_bias_act": {"batch": 8, "channels": 256, "side": 64},
    "upfirdn2d": {"batch": 8, "channels": 128, "side": 128, "up": 2, "down": 1},
    "upsample_conv2d": {"batch": 64, "in": 384, "out": 192, "side": 32},
    "conv2d_downsample": {"batch": 64, "in": 192, "out": 384, "side": 16},
    "modulated_conv2d": {"batch": 8, "in": 512, "out": 512, "side": 32},
}
_ACT, _GAIN, _CLAMP = "lrelu", 2**0.5, 256.0


def _activated(y: Tensor) -> Tensor:
    return (F.leaky_relu(y, 0.2) * _GAIN).clamp(-_CLAMP, _CLAMP)


def activation(sizes: Sizes, draw: Draw) -> Subject:
    """StyleGAN2's: bias, leaky ReLU times √2, clamped to ±256."""
    x = draw.map(sizes["batch"], sizes["channels"], sizes["side"], sizes["side"])
    arguments = (x.numel(), x.itemsize, _ACT)
    costs = passes_of(
        bias_act_cost.forward(*arguments), bias_act_cost.backward(*arguments), bias_act_cost.double_backward(*arguments)
    )
    implementations = with_backends(
        lambda x, b, backend: bias_act(x, b, act=_ACT, clamp=_CLAMP, backend=backend),
        draw.device,
        **{"F.leaky_relu": lambda x, b: _activated(x + b.to(x.dtype)[:, None, None])},
    )
    return Subject([x, draw.normal(sizes["channels"])], implementations, costs)


def epilogue(sizes: Sizes, draw: Draw) -> Subject:
    """What surrounds a modulated convolution: demodulation, noise, bias, leaky ReLU, gain, clamp."""
    batch, channels, side = sizes["batch"], sizes["channels"], sizes["side"]
    x = draw.map(batch, channels, side, side)
    noise = draw.normal(batch, 1, side, side).detach()
    arguments = (x.numel(), x.itemsize, _ACT, noise.numel())
    costs = passes_of(
        scaled_cost.forward(*arguments), scaled_cost.backward(*arguments), scaled_cost.double_backward(*arguments)
    )

    def library(x: Tensor, scale: Tensor, noise: Tensor, b: Tensor) -> Tensor:
        y = x * scale.to(x.dtype)[:, :, None, None] + noise.to(x.dtype)
        return _activated(y + b.to(x.dtype)[:, None, None])

    implementations = with_backends(
        lambda x, scale, noise, b, backend: scaled_bias_act(
            x, scale, noise, b, act=_ACT, clamp=_CLAMP, backend=backend
        ),
        draw.device,
        **{"F.leaky_relu": library},
    )
    inputs = [x, draw.normal(batch, channels, std=0.3, mean=1.0), noise, draw.normal(channels)]
    return Subject(inputs, implementations, costs)


def resampling(sizes: Sizes, draw: Draw) -> Subject:
    """×2 or /2 with the binomial filter (1, 3, 3, 1), beside PyTorch's depthwise convolution of stride 2.

    Raises:
        ValueError: up and down are not 2 and 1, or 1 and 2.
    """
    batch, channels, side, up, down = (sizes[name] for name in SIZES["upfirdn2d"])
    if {up, down} != {1, 2}:
        raise ValueError(f"upfirdn2d: up and down must be 2 and 1, or 1 and 2, got {up} and {down}")
    f = setup_filter([1, 3, 3, 1], device=draw.device)
    padding = [2, 1, 2, 1] if up == 2 else [1, 1, 1, 1]
    gain = float(up**2)
    x = draw.map(batch, channels, side, side)
    written = x.numel() * up**2 // down**2
    forward = upfirdn_cost.forward(x.numel(), written, x.itemsize, (4, 4), (up, up))
    backward = upfirdn_cost.backward(written, x.numel(), x.itemsize, (4, 4), (down, down))

    def library(x: Tensor) -> Tensor:
        weight = (f * gain).to(x.dtype).expand(x.shape[1], 1, 4, 4)
        if up == 2:
            return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=x.shape[1])
        return F.conv2d(x, weight, stride=2, padding=1, groups=x.shape[1])

    implementations = with_backends(
        lambda x, backend: upfirdn2d(x, f, up=up, down=down, padding=padding, gain=gain, backend=backend),
        draw.device,
        **{"depthwise conv": library},
    )
    # The op is linear: its double backward is the forward again, of the gradient's cotangent.
    return Subject([x], implementations, passes_of(forward, backward, forward))


def _folded(sizes: Sizes, draw: Draw, upsample: bool) -> Subject:
    batch, inputs, outputs, side = (sizes[name] for name in ("batch", "in", "out", "side"))
    op = upsample_conv2d if upsample else conv2d_downsample
    resolution = side if upsample else 2 * side
    tensors = [
        draw.map(batch, inputs, resolution, resolution),
        draw.weight(outputs, inputs, 3, 3),
        draw.weight(outputs, 1).detach().flatten().requires_grad_(),
    ]
    # The least work, whichever form runs.
    arguments = ("folded", upsample, batch, inputs, outputs, side, side, 3, draw.dtype.itemsize)
    costs = passes_of(
        resampled_cost.forward(*arguments),
        resampled_cost.backward(*arguments),
        resampled_cost.double_backward(*arguments),
    )

    def library(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if upsample:
            return F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)
        return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)

    # Ours is a choice between forms of PyTorch's own convolutions: there are no kernels to insist on.
    implementations = with_backends(
        lambda x, w, b, backend: op(x, w, b, backend="auto" if backend == "triton" else backend),
        draw.device,
        **{"F.conv2d": library},
    )
    # Of x and the weight: what the four convolutions of the op's cost are for.
    return Subject(tensors, implementations, costs, penalised=2)


def upsampling_conv(sizes: Sizes, draw: Draw) -> Subject:
    """Nearest ×2 and a 3×3 convolution; `side` is the low resolution's."""
    return _folded(sizes, draw, True)


def downsampling_conv(sizes: Sizes, draw: Draw) -> Subject:
    """A 3×3 convolution and a 2×2 mean; `side` is the low resolution's."""
    return _folded(sizes, draw, False)


def modulated_conv(sizes: Sizes, draw: Draw) -> Subject:
    """StyleGAN2's 3×3 layer with noise, bias and activation, beside the grouped convolution of its codebase."""
    batch, inputs, outputs, side = (sizes[name] for name in SIZES["modulated_conv2d"])
    tensors = [
        draw.map(batch, inputs, side, side),
        draw.weight(outputs, inputs, 3, 3),
        draw.normal(batch, inputs, std=0.3, mean=1.0),
        draw.normal(batch, 1, side, side).detach(),
        draw.normal(outputs),
    ]
    arguments = (batch, inputs, outputs, side**2, 9, draw.dtype.itemsize)
    costs = passes_of(modulated_cost.forward(*arguments), modulated_cost.backward(*arguments), None)

    def op(x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor, b: Tensor, backend: str) -> Tensor:
        return modulated_conv2d(x, weight, styles, noise, padding=1, bias=b, act=_ACT, clamp=_CLAMP, backend=backend)

    def library(x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor, b: Tensor) -> Tensor:
        own = weight.float() * styles[:, None, :, None, None].float() if x.dtype != torch.float64 else (
            weight * styles[:, None, :, None, None]
        )  # fmt: skip
        own = own * (own.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        flat = own.flatten(0, 1).to(x.dtype)
        y = F.conv2d(x.reshape(1, -1, *x.shape[2:]), flat, padding=1, groups=batch)
        y = y.reshape(batch, outputs, side, side) + noise.to(x.dtype)
        return _activated(y + b.to(x.dtype)[:, None, None])

    return Subject(tensors, with_backends(op, draw.device, **{"grouped conv": library}), costs)

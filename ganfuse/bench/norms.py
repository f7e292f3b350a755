"""Norms, pixel norm and the statistics of a batch as subjects, beside PyTorch's own norm and an activation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.bench.subject import Draw, Op, Sizes, Subject, passes_of, with_backends
from ganfuse.kernels import (
    batch_norm_act,
    group_norm_act,
    instance_norm_act,
    layer_instance_norm_act,
    minibatch_stddev,
    pixel_norm,
)
from ganfuse.kernels.channel_norm import cost as norm_cost
from ganfuse.kernels.minibatch_stddev import cost as stddev_cost
from ganfuse.kernels.pixel_norm import cost as pixel_cost

SIZES: dict[str, dict[str, int]] = {
    "batch_norm_act": {"batch": 64, "channels": 192, "side": 64},
    "instance_norm_act": {"batch": 1, "channels": 128, "side": 128},
    "layer_instance_norm_act": {"batch": 1, "channels": 256, "side": 64},
    "group_norm_act": {"batch": 64, "channels": 192, "side": 64, "groups": 16},
    "pixel_norm": {"batch": 8, "channels": 128, "side": 128},
    "minibatch_stddev": {"batch": 32, "channels": 512, "side": 4, "group": 4},
}


def _per(v: Tensor) -> Tensor:
    return v[..., None, None]


def _norm(
    sizes: Sizes, draw: Draw, op: Op, parameters: list[Tensor], *, held: bool = False,
    peers: dict[str, Op] | None = None,
) -> Subject:  # fmt: skip
    batch, channels, side = sizes["batch"], sizes["channels"], sizes["side"]
    shape = (batch, channels, side**2)
    size = draw.dtype.itemsize
    on_chip = [held and _held(kernel, draw, shape) for kernel in ("rows", "rows_backward")]
    costs = passes_of(
        norm_cost.forward(*shape, size, on_chip=on_chip[0]),
        norm_cost.backward(*shape, size, on_chip=on_chip[1]),
        norm_cost.double_backward(*shape, size),
    )
    inputs = [draw.map(batch, channels, side, side), *parameters]
    return Subject(inputs, with_backends(op, draw.device, **(peers or {})), costs)


def _held(kernel: str, draw: Draw, shape: tuple[int, int, int]) -> bool:
    """Whether rows stay on chip, so that one read of the map is the least."""
    if draw.device.type != "cuda":
        return False
    from ganfuse.kernels.channel_norm import configs
    from ganfuse.kernels.launch import target_of

    last = draw.layout == torch.channels_last
    return configs.choose_held(kernel, target_of(draw.device), draw.dtype.itemsize, last, *shape) is not None


def _per_sample(sizes: Sizes, draw: Draw) -> list[Tensor]:
    shape = (sizes["batch"], sizes["channels"])
    return [draw.normal(*shape, std=0.3, mean=1.0), draw.normal(*shape)]


def batch_norm(sizes: Sizes, draw: Draw) -> Subject:
    """Conditional batch norm and its ReLU, running statistics updated."""

    def running(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_zeros(x.shape[1], dtype=torch.float32), x.new_ones(x.shape[1], dtype=torch.float32)

    def op(x: Tensor, gain: Tensor, bias: Tensor, backend: str) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        statistics = (t.to(dtype) for t in running(x))
        return batch_norm_act(x, gain, bias, *statistics, training=True, activation="relu", backend=backend)

    def library(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        y = F.batch_norm(x, *running(x), None, None, True, 0.1, 1e-5)
        return F.relu(y * _per(gain) + _per(bias)).to(x.dtype)

    return _norm(sizes, draw, op, _per_sample(sizes, draw), peers={"F.batch_norm": library})


def instance_norm(sizes: Sizes, draw: Draw) -> Subject:
    """Without parameters, and a ReLU: CycleGAN's and U-GAT-IT's."""
    return _norm(
        sizes,
        draw,
        lambda x, backend: instance_norm_act(x, None, None, activation="relu", backend=backend),
        [],
        held=True,
        peers={"F.instance_norm": lambda x: F.relu(F.instance_norm(x))},
    )


def layer_instance_norm(sizes: Sizes, draw: Draw) -> Subject:
    """AdaLIN and its ReLU, beside U-GAT-IT's way to write it."""

    def op(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor, backend: str) -> Tensor:
        return layer_instance_norm_act(x, rho, gain, bias, activation="relu", backend=backend)

    def library(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
        def standardised(dims: tuple[int, ...]) -> Tensor:
            return (x - x.mean(dims, keepdim=True)) / torch.sqrt(x.var(dims, keepdim=True) + 1e-5)

        share = _per(rho)
        y = share * standardised((2, 3)) + (1 - share) * standardised((1, 2, 3))
        return F.relu(y * _per(gain) + _per(bias)).to(x.dtype)

    rho = torch.sigmoid(draw.normal(sizes["channels"]).detach()).requires_grad_()
    return _norm(sizes, draw, op, [*_per_sample(sizes, draw), rho], peers={"var and mean": library})


def group_norm(sizes: Sizes, draw: Draw) -> Subject:
    """With gain and bias per channel, and a ReLU."""
    groups = sizes["groups"]

    def op(x: Tensor, gain: Tensor, bias: Tensor, backend: str) -> Tensor:
        return group_norm_act(x, groups, gain, bias, activation="relu", backend=backend)

    def library(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return F.relu(F.group_norm(x, groups, gain.to(x.dtype), bias.to(x.dtype)))

    parameters = [draw.normal(sizes["channels"], std=0.3, mean=1.0), draw.normal(sizes["channels"])]
    return _norm(sizes, draw, op, parameters, peers={"F.group_norm": library})


def pixel_normalisation(sizes: Sizes, draw: Draw) -> Subject:
    """Over the channels of each pixel, beside F.rms_norm with the channels moved last."""
    batch, channels, side = sizes["batch"], sizes["channels"], sizes["side"]
    numel, pixels, size = batch * channels * side**2, batch * side**2, draw.dtype.itemsize
    shape = (numel, pixels, size)
    costs = passes_of(pixel_cost.forward(*shape), pixel_cost.backward(*shape), pixel_cost.double_backward(*shape))

    def library(x: Tensor) -> Tensor:
        return F.rms_norm(x.movedim(1, -1), (x.shape[1],), eps=1e-8).movedim(-1, 1)

    implementations = with_backends(
        lambda x, backend: pixel_norm(x, backend=backend), draw.device, **{"F.rms_norm": library}
    )
    return Subject([draw.map(batch, channels, side, side)], implementations, costs)


def minibatch_statistics(sizes: Sizes, draw: Draw) -> Subject:
    """One extra channel; PyTorch has nothing of the kind."""
    batch, channels, side = sizes["batch"], sizes["channels"], sizes["side"]
    arguments = (batch, channels, side**2, draw.dtype.itemsize)
    costs = passes_of(
        stddev_cost.forward(*arguments), stddev_cost.backward(*arguments), stddev_cost.double_backward(*arguments)
    )
    implementations = with_backends(
        lambda x, backend: minibatch_stddev(x, sizes["group"], backend=backend), draw.device
    )
    return Subject([draw.map(batch, channels, side, side)], implementations, costs)

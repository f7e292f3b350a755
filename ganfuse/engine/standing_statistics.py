"""Standing statistics: batch normalisation for evaluation by statistics of many sampled batches (BigGAN)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

__all__ = ["collect_standing_statistics", "has_running_statistics", "standing_statistics"]


@contextmanager
def standing_statistics(model: nn.Module) -> Iterator[None]:
    """Replaces a model's running statistics by the average over the batches that are run through it inside the block.

    Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis" (BigGAN), appendix: running
    averages kept during training lag behind the weights, and fit neither a moving average of the weights nor truncated
    latents; so before sampling, run many batches as they will be sampled, and average each batch's mean and unbiased
    variance, all with the same weight. Without batch normalisation that tracks statistics nothing happens.

    Inside, the batch normalisation layers alone (ours and PyTorch's) are in training mode, everything else in
    evaluation mode, and no gradients are recorded. Afterwards each layer's momentum and every module's mode are as
    before, and `num_batches_tracked` counts the batches of the block. Each use starts anew. If the block raises, or
    runs no batch, the statistics of before come back.

    Args:
        model: any module; its layers may be of several networks.

    Raises:
        ValueError: on leaving, a layer has seen no batch.

    Example::

        with standing_statistics(generator):
            for _ in range(16):
                generator(torch.randn(64, 128).clamp(-0.5, 0.5), labels)
    """
    layers = _tracking_layers(model)
    modes = [(module, module.training) for module in model.modules()]
    momenta = [layer.momentum for layer in layers]
    before = [[buffer.clone() for buffer in _statistics(layer)] for layer in layers]
    complete = False
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        with torch.no_grad():
            yield
        _check_all_seen(model, layers)
        complete = True
    finally:
        for layer, momentum, statistics in zip(layers, momenta, before):
            layer.momentum = momentum
            if not complete:
                for buffer, value in zip(_statistics(layer), statistics):
                    buffer.copy_(value)
        for module, training in modes:
            module.training = training


def collect_standing_statistics(
    model: nn.Module, sample: Callable[[int], Any], num_batches: int = 16, *, show_progress: bool = False
) -> None:
    """Calls ``sample(i)`` for i from 0 to num_batches - 1 within `standing_statistics` of `model`.

    Args:
        model: whose statistics are replaced.
        sample: runs one batch through the model; its result is dropped. It must not change the model's mode.
        num_batches: how many; BigGAN's authors take 16 of the training batch size.
        show_progress: draw a bar on a terminal's stderr.

    Raises:
        ValueError: `num_batches` is below 1, or a layer has seen no batch.
    """
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, got {num_batches}")
    with standing_statistics(model):
        for i in _progress(num_batches) if show_progress else range(num_batches):
            sample(i)


def has_running_statistics(model: nn.Module) -> bool:
    """Whether the model has batch normalisation that keeps running statistics."""
    return bool(_tracking_layers(model))


def _progress(count: int) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    yield from track(range(count), description="standing statistics", console=Console(stderr=True), transient=True)


def _tracking_layers(model: nn.Module) -> list[_NormBase]:
    return [
        module
        for module in model.modules()
        # Instance normalisation is of the same family, but its running statistics are another matter.
        if isinstance(module, _NormBase) and not isinstance(module, _InstanceNorm) and module.running_mean is not None
    ]


def _statistics(layer: _NormBase) -> list[Tensor]:
    buffers = (layer.running_mean, layer.running_var, layer.num_batches_tracked)
    return [buffer for buffer in buffers if buffer is not None]


def _check_all_seen(model: nn.Module, layers: list[_NormBase]) -> None:
    names = {id(module): name for name, module in model.named_modules()}
    unseen = [names[id(layer)] or type(layer).__name__ for layer in layers if not _batches(layer)]
    if unseen:
        raise ValueError(f"model: no batch was run through {', '.join(unseen)}: their statistics are as before")


def _batches(layer: _NormBase) -> int:
    return 0 if layer.num_batches_tracked is None else int(layer.num_batches_tracked)

"""Convolutions together with the nearest-neighbour upsampling before them, or the 2×2 mean behind them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm as TorchSpectralNorm

from ganfuse.engine.layers.spectral_norm import SpectralNorm
from ganfuse.interop.patches.swapping import Patched, original_class
from ganfuse.kernels import conv2d_downsample, upsample_conv2d

__all__ = ["conv_pool", "doubles", "halves", "keeps_size", "pads_one", "upsample_conv"]


def keeps_size(module: nn.Module, *, padded: bool = False) -> str | None:
    """Why a module is no 3×3 or 1×1 convolution whose weight can be read, that keeps the size; None if it is one.

    Args:
        padded: its input is padded already, so that it must not pad.
    """
    if not isinstance(module, nn.Conv2d):
        return f"it is no nn.Conv2d but {type(module).__name__}"
    kind: Any = original_class(module)
    own = _weight_method(module)
    if "forward" in module.__dict__ or kind._conv_forward is not nn.Conv2d._conv_forward:
        return "its class convolves in its own way"
    if own is None and kind.forward is not nn.Conv2d.forward:
        return "its class has a forward of its own"
    size = module.kernel_size[0]
    pad = 0 if padded else size // 2
    fits = module.kernel_size == (size, size) and size in ((3,) if padded else (1, 3))
    fits = fits and (module.padding == (pad, pad) or (module.padding == "same" and not padded))
    fits = fits and module.stride == module.dilation == (1, 1) and module.groups == 1
    if not (fits and module.padding_mode == "zeros"):
        return "it is no 3×3 or 1×1 convolution that keeps the size"
    return None


def doubles(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], module: nn.Module | None) -> bool:
    """Whether a node of a graph enlarges maps twofold by repeating pixels."""
    if module is not None:
        if type(module) not in (nn.Upsample, nn.UpsamplingNearest2d):
            return False
        given = {name: getattr(module, name) for name in ("size", "scale_factor", "mode", "align_corners")}
        given["recompute_scale_factor"] = module.recompute_scale_factor
    elif target is F.interpolate:
        names = ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")
        given = {"mode": "nearest", **dict(zip(names, args)), **kwargs}
    else:
        return False
    factor = given.get("scale_factor")
    return (
        given.get("size") is None
        and given["mode"] == "nearest"
        and not given.get("align_corners")
        and not given.get("recompute_scale_factor")
        and not given.get("antialias")
        and (factor == 2 or (isinstance(factor, (tuple, list)) and tuple(factor) == (2, 2)))
    )


def halves(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], module: nn.Module | None) -> bool:
    """Whether a node of a graph takes the mean of 2×2 squares."""
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    if module is not None:
        if type(module) is not nn.AvgPool2d:
            return False
        given = {name: getattr(module, name) for name in names}
    elif target is F.avg_pool2d:
        given = {**dict(zip(("input", *names), args)), **kwargs}
    else:
        return False
    stride = given.get("stride")
    return (
        _pair(given.get("kernel_size")) == (2, 2)
        and (stride is None or stride in ((), []) or _pair(stride) == (2, 2))
        and _pair(given.get("padding") or 0) == (0, 0)
        and not given.get("ceil_mode")
        and given.get("divisor_override") is None
    )


def pads_one(module: nn.Module | None) -> bool:
    """Whether a module mirrors one pixel on each side."""
    return type(module) is nn.ReflectionPad2d and tuple(module.padding) == (1, 1, 1, 1)


def upsample_conv(conv: Any, padding_mode: str, before: tuple[Any, ...], x: Tensor) -> Tensor:
    """The convolution of `x` enlarged twofold. Called by patched forwards.

    Args:
        padding_mode: ``"zeros"``: the convolution's own. ``"reflect"``: of the layer before it.
        before: modules that x goes through before the convolution where this cannot be done at once; None: the
            upsampling by a function.
    """
    if _plain(conv, x, padding_mode == "reflect"):
        return _with_hooks(conv, x, lambda w: upsample_conv2d(x, w, conv.bias, padding_mode=padding_mode))
    for step in before:
        x = F.interpolate(x, scale_factor=2) if step is None else step(x)
    result: Tensor = conv(x)
    return result


def conv_pool(conv: Any, x: Tensor) -> Tensor:
    """The 2×2 means of the convolution of `x`. Called by patched forwards."""
    if _plain(conv, x, False) and min(x.shape[2:]) >= 2:
        return _with_hooks(conv, x, lambda w: conv2d_downsample(x, w, conv.bias))
    return F.avg_pool2d(conv(x), 2)


def known_hooks(module: nn.Module) -> bool:
    """Whether nothing is hooked to a convolution's call but the computation of its weight."""
    before, after = module._forward_pre_hooks.values(), module._forward_hooks.values()
    return (
        all(isinstance(hook, TorchSpectralNorm | SpectralNorm) for hook in before)
        and all(isinstance(getattr(hook, "__self__", None), SpectralNorm) for hook in after)
        and not (module._backward_hooks or module._backward_pre_hooks)
    )


def _plain(conv: Any, x: Tensor, padded: bool) -> bool:
    if x.dim() != 4 or x.shape[1] != conv.in_channels or x.numel() == 0 or not x.is_floating_point():
        return False
    weight = conv._parameters.get("weight")
    if weight is not None and weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        return False
    return keeps_size(conv, padded=padded) is None and known_hooks(conv)


def _weight_method(module: nn.Module) -> str | None:
    """The method of a layer that `spectral` patched, which computes its weight."""
    return "W_" if isinstance(module, Patched) and "W_" in vars(type(module)) else None


def _with_hooks(conv: Any, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
    """Run with the convolution's weight, computed as a call of the convolution would."""
    for hook in conv._forward_pre_hooks.values():
        hook(conv, (x,))
    method = _weight_method(conv)
    y = run(conv.weight if method is None else getattr(conv, method)())
    for hook in conv._forward_hooks.values():
        hook(conv, (x,), y)
    return y


def _pair(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, (tuple, list)) else value

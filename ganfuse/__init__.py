"""ganfuse: fused, twice-differentiable GAN layers, an engine that trains with them, and the models that need them."""

import importlib
from typing import TYPE_CHECKING, Any

from ganfuse.engine import registry
from ganfuse.version import __version__ as __version__

if TYPE_CHECKING:
    from ganfuse.engine.layers import AdaIN2d as AdaIN2d
    from ganfuse.engine.layers import AdaLIN2d as AdaLIN2d
    from ganfuse.engine.layers import BatchNormAct2d as BatchNormAct2d
    from ganfuse.engine.layers import ConditionalBatchNorm2d as ConditionalBatchNorm2d
    from ganfuse.engine.layers import Conv2dDownsample as Conv2dDownsample
    from ganfuse.engine.layers import EqualizedConv2d as EqualizedConv2d
    from ganfuse.engine.layers import EqualizedLinear as EqualizedLinear
    from ganfuse.engine.layers import FromRGB as FromRGB
    from ganfuse.engine.layers import GroupNormAct2d as GroupNormAct2d
    from ganfuse.engine.layers import ILN2d as ILN2d
    from ganfuse.engine.layers import InstanceNormAct2d as InstanceNormAct2d
    from ganfuse.engine.layers import MinibatchDiscrimination as MinibatchDiscrimination
    from ganfuse.engine.layers import MinibatchStdDev as MinibatchStdDev
    from ganfuse.engine.layers import ModulatedConv2d as ModulatedConv2d
    from ganfuse.engine.layers import PixelNorm as PixelNorm
    from ganfuse.engine.layers import SelfAttention2d as SelfAttention2d
    from ganfuse.engine.layers import ToRGB as ToRGB
    from ganfuse.engine.layers import UpsampleConv2d as UpsampleConv2d
    from ganfuse.engine.layers import fuse_spectral_norms as fuse_spectral_norms
    from ganfuse.engine.layers import hold_spectral_norms as hold_spectral_norms
    from ganfuse.engine.layers import remove_spectral_norm as remove_spectral_norm
    from ganfuse.engine.layers import spectral_norm as spectral_norm
    from ganfuse.engine.layers import unfuse_spectral_norms as unfuse_spectral_norms
    from ganfuse.engine.standing_statistics import standing_statistics as standing_statistics
    from ganfuse.kernels import BackendUnavailableError as BackendUnavailableError
    from ganfuse.kernels import no_weight_gradients as no_weight_gradients
    from ganfuse.kernels import use_backend as use_backend

# Imported when first used, so that `import ganfuse` costs nothing beyond what is asked of it.
_HOMES = {
    "BackendUnavailableError": "kernels",
    "no_weight_gradients": "kernels",
    "use_backend": "kernels",
    "AdaIN2d": "engine.layers",
    "AdaLIN2d": "engine.layers",
    "BatchNormAct2d": "engine.layers",
    "ConditionalBatchNorm2d": "engine.layers",
    "Conv2dDownsample": "engine.layers",
    "EqualizedConv2d": "engine.layers",
    "EqualizedLinear": "engine.layers",
    "FromRGB": "engine.layers",
    "GroupNormAct2d": "engine.layers",
    "ILN2d": "engine.layers",
    "InstanceNormAct2d": "engine.layers",
    "MinibatchDiscrimination": "engine.layers",
    "MinibatchStdDev": "engine.layers",
    "ModulatedConv2d": "engine.layers",
    "PixelNorm": "engine.layers",
    "SelfAttention2d": "engine.layers",
    "ToRGB": "engine.layers",
    "UpsampleConv2d": "engine.layers",
    "fuse_spectral_norms": "engine.layers",
    "hold_spectral_norms": "engine.layers",
    "remove_spectral_norm": "engine.layers",
    "spectral_norm": "engine.layers",
    "unfuse_spectral_norms": "engine.layers",
    "standing_statistics": "engine.standing_statistics",
}
__all__ = ["__version__", *sorted(_HOMES)]

# By name: the engine, which turns a run folder back into its game, imports no model.
registry.register_source("ganfuse.models")


def __getattr__(name: str) -> Any:
    if name in ("engine", "interop", "kernels", "models"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "engine", "interop", "kernels", "models"})

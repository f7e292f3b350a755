"""ganfuse: fused, twice-differentiable GAN layers, an engine that trains with them, and the models that need them."""

import importlib
from typing import TYPE_CHECKING, Any

from ganfuse.engine import registry
from ganfuse.version import __version__ as __version__

if TYPE_CHECKING:
    from ganfuse.engine.layers import BatchNormAct2d as BatchNormAct2d
    from ganfuse.engine.layers import ConditionalBatchNorm2d as ConditionalBatchNorm2d
    from ganfuse.engine.layers import SelfAttention2d as SelfAttention2d
    from ganfuse.engine.layers import remove_spectral_norm as remove_spectral_norm
    from ganfuse.engine.layers import spectral_norm as spectral_norm
    from ganfuse.kernels import BackendUnavailableError as BackendUnavailableError
    from ganfuse.kernels import use_backend as use_backend

# Imported when first used, so that `import ganfuse` costs nothing beyond what is asked of it.
_HOMES = {
    "BackendUnavailableError": "kernels",
    "use_backend": "kernels",
    "BatchNormAct2d": "engine.layers",
    "ConditionalBatchNorm2d": "engine.layers",
    "SelfAttention2d": "engine.layers",
    "remove_spectral_norm": "engine.layers",
    "spectral_norm": "engine.layers",
}
__all__ = ["__version__", *sorted(_HOMES)]

# By name: the engine, which turns a run folder back into its game, imports no model.
registry.register_source("ganfuse.models")


def __getattr__(name: str) -> Any:
    if name in ("engine", "kernels", "models"):
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "engine", "kernels", "models"})

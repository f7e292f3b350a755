"""NVIDIA's pickles without NVIDIA's code, and without executing any.

Their networks are pickled with the source of their classes, which the original unpickler executes. Here each is an
inert record of parameters, buffers and submodules; the few functions that rebuild tensors are the only ones there are.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

__all__ = ["read_pickle"]


class _Record(dict[str, Any]):
    """What was an object with a class of its own: its state, and nothing that acts."""


def _storage(data: bytes) -> Any:
    # PyTorch's own function of this name unpickles anything.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _object(meta: Mapping[str, Any]) -> _Record:
    state = meta.get("state")
    if not isinstance(state, Mapping):
        raise pickle.UnpicklingError("a persistent object without a state")
    return _Record(state, class_name=str(meta.get("class_name")))


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("dnnlib.util", "EasyDict"): _Record,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _object,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it has persistent ids")


def read_pickle(path: Path) -> dict[str, Any]:
    """A pickle of stylegan2-ada-pytorch or stylegan3: state dicts by the names of its networks.

    Raises:
        ValueError: it is damaged, or asks for anything but tensors, dicts and networks.
    """
    try:
        with path.open("rb") as file:
            found = _Unpickler(file).load()
    except Exception as error:  # a damaged pickle can make the reader raise anything
        raise ValueError(
            f"checkpoint: {path} is damaged, or holds more than networks and plain values ({error}); "
            "nothing in it was executed"
        ) from error
    networks = {"G_ema": found} if _is_network(found) else found
    if not isinstance(networks, Mapping):
        raise ValueError(f"checkpoint: {path} holds a {type(found).__name__}, expected a dict of networks")
    return {str(name): _state_dict(value) for name, value in networks.items() if _is_network(value)}


def _is_network(value: object) -> bool:
    return isinstance(value, _Record) and isinstance(value.get("_modules"), Mapping)


def _state_dict(network: _Record, prefix: str = "") -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        for name, value in network.get(kind, {}).items():
            if isinstance(value, Tensor):
                tensors[prefix + name] = value.detach()
    for name, child in network["_modules"].items():
        if _is_network(child):
            tensors.update(_state_dict(child, f"{prefix}{name}."))
    return tensors

"""Which group of operations a GPU kernel, or an operator on a CPU, belongs to: by its name."""

import functools
import importlib
import pkgutil
import re
from collections.abc import Mapping
from typing import Any

import torch

from ganfuse.kernels.autograd import PositionalFunction

__all__ = ["OURS_PREFIX", "cpu_group", "kernel_group", "our_functions", "our_kernels", "our_op"]

OURS_PREFIX = "ganfuse: "
"""What the groups of our own kernels begin with; the op's name follows."""

# The first that is found in the name decides. Layout conversions of cuDNN are copies, whatever else they are called.
_KERNELS = (
    ("copies", r"memcpy|memset|nchwtonhwc|nhwctonchw|transpose|catarray|direct_copy|copy_kernel|fill"),
    ("torch.compile", r"^triton_"),
    ("convolutions", r"conv|fprop|dgrad|wgrad|winograd|implicit_gemm|cudnn.*(gemm|engine)"),
    ("attention", r"flash|fmha|softmax"),
    ("matrix products", r"gemm|gemv|nvjet|cublas|splitk|dot_kernel"),
    ("norms", r"batch_?norm|layer_?norm|group_?norm|bn_[fb]w|rowwisemoments|welford"),
    ("optimiser and averages", r"multi_tensor|fusedadam|adam|foreach"),
    ("random numbers", r"distribution|philox|curand|randperm"),
    ("resampling", r"upsample|avg_?pool|max_?pool|interpolate|reflection_pad|replication_pad|grid_sampler"),
    ("reductions", r"reduce|norm_kernel|scan|sort"),
    ("indexing", r"index|gather|scatter|embedding"),
    ("elementwise", r"elementwise|pointwise|unrolled|where|clamp"),
)
_OPERATORS = (
    ("convolutions", r"conv"),
    ("attention", r"softmax|scaled_dot_product|flash"),
    ("matrix products", r"(mm|mv|bmm|dot|linear|matmul|einsum|ger|addr)(_|$)"),
    ("norms", r"batch_norm|layer_norm|group_norm|instance_norm|rms_norm"),
    ("optimiser and averages", r"adam|_foreach|lerp_$"),
    ("random numbers", r"^(normal_|uniform_|random_|bernoulli|rand|randn|randint|randperm|multinomial)"),
    ("resampling", r"upsample|pool|interpolate|pad|grid_sampler|im2col|col2im"),
    ("copies", r"copy|clone|contiguous|^cat$|stack|fill_|zero_|zeros|ones|full|empty|resize|^to$"),
    ("reductions", r"^(sum|mean|var|std|norm|amax|amin|max|min|all|any|argmax|cumsum|linalg_vector_norm|isfinite)"),
    ("indexing", r"index|gather|scatter|embedding|one_hot"),
    ("views", r"view|reshape|permute|transpose|^t$|expand|select|slice|as_strided|narrow|chunk|split|unbind|squeeze"),
)  # fmt: skip
_FOLDERS = {"attention": "feature_attention"}
_VIEWS_TOO = r"^(detach|alias|item|_local_scalar_dense|result_type|lift_fresh)"


@functools.cache
def our_kernels() -> Mapping[str, str]:
    """The op of each of ganfuse's Triton kernels, by the kernel's name; none where Triton is not installed."""
    import ganfuse.kernels

    try:
        from triton.runtime.jit import JITFunction
    except ImportError:
        return {}
    found = {}
    for info in pkgutil.walk_packages(ganfuse.kernels.__path__, "ganfuse.kernels."):
        name = info.name.rsplit(".", 1)[1]
        # Those modules hold kernels; others do more when imported than define things.
        if not name.startswith("triton"):
            continue
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, JITFunction):
                found[value.fn.__name__] = value.fn.__module__.split(".")[2]
    return found


@functools.cache
def our_functions() -> Mapping[str, str]:
    """The op of each of ganfuse's autograd functions, by what a profile calls it: its forward and its backward."""
    found: dict[str, str] = {}
    waiting: list[Any] = [torch.autograd.Function]
    while waiting:
        for function in waiting.pop().__subclasses__():
            waiting.append(function)
            parts = function.__module__.split(".")
            if parts[:2] != ["ganfuse", "kernels"] or function is PositionalFunction:
                continue
            # Functions that kernels/autograd.py makes are called after their op, their nodes all alike.
            op = _without_level(function.__name__)
            op = _FOLDERS.get(op, op) if parts[2] == "autograd" else parts[2]
            found[function.__name__] = op
            found[f"{function.__name__}Backward"] = op
    return found | {f"{level}Backward": "autograd" for level in ("Forward", "Backward", "DoubleBackward")}


def our_op(name: str) -> str | None:
    """The op of ganfuse that a host event belongs to: one of its functions, or in compiled code a custom op."""
    if name.startswith("ganfuse::"):
        op = _without_level(name.removeprefix("ganfuse::"))
        return _FOLDERS.get(op, op)
    return our_functions().get(name)


def _without_level(name: str) -> str:
    return re.sub(r"_(double_backward|backward|forward)$", "", name)


def kernel_group(name: str) -> str:
    """The group of a kernel, copy or memory set on a GPU."""
    ours = our_kernels()
    if name in ours:
        return OURS_PREFIX + ours[name]
    lower = name.lower()
    return next((group for group, pattern in _KERNELS if re.search(pattern, lower)), "other")


def cpu_group(name: str) -> str:
    """The group of an operator on a CPU; what is none, autograd's and Python's own work, is "overhead"."""
    space, _, operator = name.rpartition("::")
    if space != "aten":
        return "overhead"
    if re.search(_VIEWS_TOO, operator):
        return "views"
    return next((group for group, pattern in _OPERATORS if re.search(pattern, operator)), "elementwise")

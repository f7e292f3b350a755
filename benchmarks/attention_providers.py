"""Attention as ganfuse, plain PyTorch, PyTorch's fused attention and torch.compile do it.

All take feature maps (B, C, H, W) in either layout and give one back; peers that work on token lists may return a view
with the strides that suit them, and are spared the copy that a user would have to make of it.
"""

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.attention_cases import Inputs
from benchmarks.attention_passes import Attention, Penalty, definition, sum_of_squares
from ganfuse.kernels import feature_attention

OURS = "ganfuse"


class RefusedError(RuntimeError):
    """An implementation does not take a case; the message says why, in its own words."""


@dataclass(frozen=True)
class Provider:
    """An implementation that was made ready for one case.

    Attributes:
        attention: None where only the penalty exists.
        penalty: a form of its own of the whole penalty; None composes it of `attention`.
        detail: what was chosen: backend, padding.
    """

    name: str
    attention: Attention | None
    penalty: Penalty | None = None
    detail: str = ""


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H·W, C), a view."""
    return x.flatten(2).transpose(1, 2)


def _as_map(tokens: Tensor, like: Tensor) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])


def _ganfuse(inputs: Inputs) -> Provider:
    backend = "triton" if inputs.query.device.type == "cuda" else "auto"

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return feature_attention(query, key, value, backend=backend)

    return Provider(OURS, attention, detail=f"backend={backend}")


def _reference(_: Inputs) -> Provider:
    return Provider("reference", definition)


def _bmm_tokens(_: Inputs) -> Provider:
    """(B, N, C): the form of token lists, with a product that leaves channels innermost."""

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = torch.softmax(torch.bmm(_tokens(query), key.flatten(2)), -1)
        return _as_map(torch.bmm(weights, _tokens(value)), query)

    return Provider("bmm-tokens", attention)


def _bmm_channels(_: Inputs) -> Provider:
    """(B, C, N): the form of SAGAN and BigGAN codebases."""

    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        weights = torch.softmax(torch.bmm(query.flatten(2).transpose(1, 2), key.flatten(2)), -1)
        return torch.bmm(value.flatten(2), weights.transpose(1, 2)).unflatten(2, query.shape[2:])

    return Provider("bmm-channels", attention)


class _ChosenBackend(TorchDispatchMode):
    """Notes which fused attention ran; none of them means the math form, which is composed of others."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "math"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        match = re.search(r"_scaled_dot_product_(?:fused_)?(flash|efficient|cudnn)_attention", str(func))
        if match:
            self.name = match.group(1)
        return func(*args, **(kwargs or {}))


class _Form(NamedTuple):
    """How the same problem is handed to a fused kernel. Zeros behind the channels change nothing."""

    query_channels: int
    value_channels: int
    contiguous: bool

    def label(self, d: int, e: int) -> str:
        padded = [f"q, k padded to {self.query_channels}"] if self.query_channels > d else []
        padded += [f"v padded to {self.value_channels}"] if self.value_channels > e else []
        return ", ".join(padded) or ("contiguous" if self.contiguous else "as it is")

    def apply(self, x: Tensor, channels: int) -> Tensor:
        tokens = _tokens(x)
        if tokens.shape[-1] < channels:
            tokens = F.pad(tokens, (0, channels - tokens.shape[-1]))
        return (tokens.contiguous() if self.contiguous else tokens).unsqueeze(1)


def _forms(d: int, e: int) -> list[_Form]:
    """From free to dear: as it is, copied, sizes that fused kernels like, all sizes equal."""

    def up(channels: int) -> int:
        return -(-channels // 8) * 8

    widest = max(d, e)
    forms = [_Form(d, e, False), _Form(d, e, True), _Form(up(d), up(e), True), _Form(widest, widest, True)]
    return list(dict.fromkeys([*forms, _Form(up(widest), up(widest), True)]))


def _sdpa_attention(form: _Form, backend: SDPBackend | None) -> Attention:
    def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q, k = (form.apply(x, form.query_channels) for x in (query, key))
        v = form.apply(value, form.value_channels)
        with contextlib.nullcontext() if backend is None else sdpa_kernel(backend):
            output = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return _as_map(output.squeeze(1)[..., : value.shape[1]], query)

    return attention


@contextlib.contextmanager
def _reasons() -> Iterator[list[str]]:
    """Collects what PyTorch says about the kernels that it does not use."""
    reasons: list[str] = []
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield reasons
    finally:
        torch.set_warn_always(always)
    for warning in caught:
        text = re.sub(r"\s*\(Triggered internally.*", "", str(warning.message), flags=re.DOTALL).strip()
        if not text.endswith("because:") and "runtime disabled" not in text and text not in reasons:
            reasons.append(text)


def _sdpa(name: str, backend: SDPBackend | None) -> Callable[[Inputs], Provider]:
    def build(inputs: Inputs) -> Provider:
        d, e = inputs.query.shape[1], inputs.value.shape[1]
        forms = _forms(d, e)
        if backend in (None, SDPBackend.MATH):
            # What a user writes; it takes everything.
            forms = forms[:1]
        reasons: list[str] = []
        for form in forms:
            label, attention = form.label(d, e), _sdpa_attention(form, backend)
            chosen = _ChosenBackend()
            with _reasons() as said:
                try:
                    tensors = [x.detach().requires_grad_() for x in inputs[:3]]
                    with chosen:
                        output = attention(*tensors)
                    torch.autograd.grad(output, tensors, inputs.grad_output)
                    without_graph = _ChosenBackend()
                    with torch.no_grad(), without_graph:
                        attention(*inputs[:3])
                    also = "" if chosen.name == without_graph.name else f" (without a graph {without_graph.name})"
                    return Provider(name, attention, detail=f"{chosen.name}{also}, {label}")
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    failure = str(error).splitlines()[0]
            reasons.append(f"{label}: {'; '.join(said) or failure}")
        raise RefusedError(" | ".join(reasons))

    return build


def _compile(_: Inputs) -> Provider:
    return Provider("compile", torch.compile(definition, fullgraph=True, dynamic=False))


def _compile_penalty(_: Inputs) -> Provider:
    """The whole penalty in one graph, its first derivative by `torch.func.grad`."""

    def penalty(query: Tensor, key: Tensor, value: Tensor, grad_output: Tensor) -> Tensor:
        def inner(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return (definition(query, key, value) * grad_output).sum()

        return sum_of_squares(torch.func.grad(inner, argnums=(0, 1, 2))(query, key, value))

    return Provider("compile-penalty", None, torch.compile(penalty, fullgraph=True, dynamic=False))


_BUILDERS: dict[str, Callable[[Inputs], Provider]] = {
    OURS: _ganfuse,
    "reference": _reference,
    "bmm-tokens": _bmm_tokens,
    "bmm-channels": _bmm_channels,
    "sdpa": _sdpa("sdpa", None),
    "sdpa-flash": _sdpa("sdpa-flash", SDPBackend.FLASH_ATTENTION),
    "sdpa-efficient": _sdpa("sdpa-efficient", SDPBackend.EFFICIENT_ATTENTION),
    "sdpa-cudnn": _sdpa("sdpa-cudnn", SDPBackend.CUDNN_ATTENTION),
    "sdpa-math": _sdpa("sdpa-math", SDPBackend.MATH),
    "compile": _compile,
    "compile-penalty": _compile_penalty,
}
PROVIDERS = tuple(_BUILDERS)
NAIVE = ("reference", "bmm-tokens", "bmm-channels")
COMPILED = ("compile", "compile-penalty")


def build(name: str, inputs: Inputs) -> Provider:
    """Make an implementation ready for the shapes, type and layout of `inputs`.

    Raises:
        RefusedError: it does not take them.
    """
    return _BUILDERS[name](inputs)

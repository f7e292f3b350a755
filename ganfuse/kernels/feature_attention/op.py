"""Public functions: checks, choice of the backend, and the differentiable op behind both."""

import math

import torch
from torch import Tensor

from ganfuse.kernels.autograd import DifferentiableOp
from ganfuse.kernels.backend import INTERPRETED, resolve_backend
from ganfuse.kernels.checks import check_alike, check_nonempty, check_size, check_tensor
from ganfuse.kernels.feature_attention import eager, reference
from ganfuse.kernels.feature_attention.allocation import Attributes
from ganfuse.kernels.feature_attention.tokens import shape_of
from ganfuse.kernels.lazy_implementations import LazyImplementations
from ganfuse.kernels.precision import to_autocast


def feature_attention(
    query: Tensor, key: Tensor, value: Tensor, *, scale: float = 1.0, backend: str | None = None
) -> Tensor:
    """Attention between the positions of feature maps: softmax over keys of ``scale · qᵀk``, applied to the values.

    Zhang et al. 2018, "Self-Attention Generative Adversarial Networks", arXiv:1805.08318, eq. 1 and 2. Twice
    differentiable with fused kernels, any number of times through the reference; O(N) memory on GPUs.

    Args:
        query: (B, Cq, H, W).
        key: (B, Cq, H2, W2); the grid may differ from the query's (BigGAN pools it).
        value: (B, Cv, H2, W2).
        scale: factor of the logits; 1 in SAGAN and BigGAN.
        backend: ``"auto"``, ``"reference"``, ``"eager"`` or ``"triton"``; None follows `ganfuse.use_backend`.

    Returns:
        (B, Cv, H, W) in the inputs' type (autocast's, under autocast) and layout, NCHW or channels_last.

    Raises:
        ValueError: shapes, types or devices do not fit, or `backend` cannot run here.
    """
    op = "feature_attention"
    for name, x in (("query", query), ("key", key), ("value", value)):
        check_tensor(op, name, x, ndim=4)
        check_nonempty(op, name, x)
    query, key, value = to_autocast(query, key, value)
    check_alike(op, query=query, key=key, value=value)
    check_size(op, "key.shape[0]", key.shape[0], query.shape[0], "the query's batch")
    check_size(op, "value.shape[0]", value.shape[0], query.shape[0], "the query's batch")
    check_size(op, "key.shape[1]", key.shape[1], query.shape[1], "the query's channels")
    if value.shape[2:] != key.shape[2:]:
        raise ValueError(f"{op}: value must have the key's grid {tuple(key.shape[2:])}, got {tuple(value.shape[2:])}")
    scale = _checked_scale(op, scale)
    return _attend(op, query, key, value, Attributes(scale, False, "map", ""), backend)


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    backend: str | None = None,
) -> Tensor:
    """``softmax(scale · Q Kᵀ) V`` in the layout of `torch.nn.functional.scaled_dot_product_attention`.

    That function's fused backends cannot be differentiated twice; this one can, with the same O(N) memory.

    Args:
        query: (..., N, E). key: (..., M, E). value: (..., M, Ev). Leading dimensions broadcast.
        scale: factor of the logits; None means 1/√E.
        is_causal: query i sees keys j ≤ i, counted from the top left corner where N ≠ M, as in PyTorch.
        backend: as in `feature_attention`.

    Returns:
        (..., N, Ev) in the inputs' type (autocast's, under autocast).

    Raises:
        ValueError: shapes, types or devices do not fit, or `backend` cannot run here.
    """
    op = "scaled_dot_product_attention"
    for name, x in (("query", query), ("key", key), ("value", value)):
        check_tensor(op, name, x, least_ndim=2)
        check_nonempty(op, name, x, first_dim=x.ndim - 2)
    query, key, value = to_autocast(query, key, value)
    check_alike(op, query=query, key=key, value=value)
    check_size(op, "key.shape[-1]", key.shape[-1], query.shape[-1], "the query's channels")
    check_size(op, "value.shape[-2]", value.shape[-2], key.shape[-2], "the number of keys")
    lead = [x.shape[:-2] for x in (query, key, value)]
    if lead[0] != lead[1] or lead[0] != lead[2]:
        try:
            common = torch.broadcast_shapes(*lead)  # type: ignore[no-untyped-call]
        except RuntimeError:
            shapes = ", ".join(str(tuple(x.shape)) for x in (query, key, value))
            raise ValueError(f"{op}: leading dimensions of query, key and value must broadcast, got {shapes}") from None
        query, key, value = (x.expand(*common, *x.shape[-2:]) for x in (query, key, value))
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else _checked_scale(op, scale)
    return _attend(op, query, key, value, Attributes(scale, is_causal, "tokens", ""), backend)


def _checked_scale(op: str, scale: float) -> float:
    if torch.compiler.is_compiling():
        # A symbol there, of which nothing can be asked without breaking the graph.
        return scale
    if not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"{op}: scale must be a finite number, got {scale!r}")
    return float(scale)


def _attend(op: str, query: Tensor, key: Tensor, value: Tensor, attributes: Attributes, backend: str | None) -> Tensor:
    chosen = resolve_backend(
        op,
        backend,
        query.device,
        triton=lambda: _triton_unsupported(attributes, query, key, value),
        eager=lambda: eager.unsupported(query),
    )
    if chosen == "reference":
        return _reference(attributes, query, key, value)
    return _attention(attributes._replace(backend=chosen), query, key, value)


def _reference(attributes: Attributes, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if attributes.form == "map":
        return reference.feature_attention(query, key, value, attributes.scale)
    return reference.scaled_dot_product_attention(query, key, value, attributes.scale, attributes.is_causal)


def _triton_unsupported(attributes: Attributes, query: Tensor, key: Tensor, value: Tensor) -> str | None:
    """Why the kernels do not take this call; None if they do. Asked while Dynamo traces, too: no import of Triton."""
    d, e = (shape_of(x, attributes.form).channels for x in (query, value))
    if d > 256 or e > 512:
        return f"head sizes up to 256 (query, key) and 512 (value) are built, got {d} and {e}"
    if query.dtype == torch.float64 and not INTERPRETED:
        return "float64 has no fast tensor cores; the reference is as fast"
    if max(shape_of(x, attributes.form).tokens for x in (query, key)) * max(d, e) >= 2**31:
        return "one sample has 2^31 elements or more"
    return None


_attention = DifferentiableOp(
    "attention",
    ("query", "key", "value"),
    Attributes,
    LazyImplementations("ganfuse.kernels.feature_attention", eager=eager.IMPLEMENTATION),
    _reference,
    num_state=1,
    num_notes=1,
)

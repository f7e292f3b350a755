"""Derivatives of PyTorch's own norms, mended: hooks on their nodes of the autograd graph.

PyTorch's first backward of a norm is fast and exact. What is differentiated again is not always: the second backward
of large maps takes tens of passes, that of bfloat16 maps rounds between them, and third derivatives of batch norm are
wrong (its second backward is made of operations on a mean and deviation that are constants to the graph). A hook looks
at the gradients that a node has made, and puts others in their place where these will be differentiated. A backward
that will not be, most of them, pays 3 µs for it, where a Function of our own costs 20.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients
from ganfuse.kernels.channel_norm import allocation as plane
from ganfuse.kernels.channel_norm import reference
from ganfuse.kernels.channel_norm.allocation import Attributes
from ganfuse.kernels.channel_norm.differentiable import CHANNEL_NORM
from ganfuse.kernels.weight_gradients import functorch_is_active

# From so many elements on, second derivatives are faster in our passes, less PyTorch's first, which comes for nothing.
_LARGE_BATCH = 1 << 16
_LARGE_GROUP = 1 << 18
# Private, so that without them nothing is taken that needs them.
_current_node = getattr(torch._C, "_current_autograd_node", None)
_saving_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)


def can_be_fused() -> bool:
    """Whether derivatives in passes of our own work here.

    It reads what a node has saved for a second time, and activation checkpointing refuses that.
    """
    return _current_node is not None and _saving_hooks is not None and _saving_hooks(True) is None


def is_fused(kind: str, x: Tensor) -> bool:
    """Whether second derivatives of a norm of x are those of our passes, which `can_be_fused` has to allow."""
    return x.numel() >= (_LARGE_BATCH if kind == "batch" else _LARGE_GROUP) or x.dtype == torch.bfloat16


def mend_batch_norm(y: Tensor, x: Tensor) -> None:
    """Let derivatives of y, PyTorch's batch norm of x, be right: from the second on ours, or from the third on."""
    y.grad_fn.register_hook(_fused_batch if is_fused("batch", x) else _with_mended_second)  # type: ignore[union-attr]


def mend_group_norm(y: Tensor, x: Tensor) -> None:
    """Likewise of its group norm. It is right, if slow, by itself, unless there is something to round."""
    if is_fused("group", x):
        y.grad_fn.register_hook(_fused_group)  # type: ignore[union-attr]


def _attributes(kind: str, groups: int, eps: float) -> Attributes:
    return Attributes(kind, groups, eps, False, "none", 0.0, "", "eager")


def _fused_batch(gradients: Gradients, grads: Gradients) -> Gradients | None:
    if not torch.is_grad_enabled() or grads[0] is None:
        return None
    node = _current_node()  # type: ignore[misc]
    eps = node._saved_eps
    with torch.no_grad():
        if node._saved_training:
            mean, rstd = node._saved_result1, node._saved_result2
            count = grads[0][:, 0].numel()
            state = torch.stack([mean, rstd]), torch.stack([mean, rstd.pow(-2) - eps, torch.full_like(mean, count)])
        else:
            mean, rstd = node._saved_running_mean, torch.rsqrt(node._saved_running_var + eps)
            state = _planes(node, *(t.expand(grads[0].shape[:2]) for t in (mean, rstd)))
    return _fused(_attributes("batch" if node._saved_training else "given", 1, eps), node, gradients, grads[0], state)


def _fused_group(gradients: Gradients, grads: Gradients) -> Gradients | None:
    if not torch.is_grad_enabled() or grads[0] is None:
        return None
    node = _current_node()  # type: ignore[misc]
    with torch.no_grad():
        channels = grads[0].shape[1] // node._saved_group
        rows = (t.repeat_interleave(channels, 1) for t in (node._saved_result1, node._saved_result2))
        state = _planes(node, *rows)
    return _fused(_attributes("group", node._saved_group, node._saved_eps), node, gradients, grads[0], state)


def _planes(node: Any, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """`coefficients` and `moments` of `allocation.fake_forward`, from (B, C) statistics; the weight is the node's."""
    planes = mean.new_zeros((4, *mean.shape))
    planes[plane.CENTRE], planes[plane.RSTD] = mean, rstd
    planes[plane.SLOPE] = rstd if node._saved_weight is None else rstd * node._saved_weight
    return planes, mean.new_empty((3, 0))


def _fused(
    attributes: Attributes, node: Any, gradients: Gradients, grad: Tensor, state: tuple[Tensor, Tensor]
) -> Gradients:
    x = node._saved_input
    # What a bias is does not matter to any derivative.
    bias = None if gradients[2] is None else state[0].new_zeros(x.shape[1])
    needs = (*(g is not None for g in gradients[:3]), *(False,) * 6)
    # The rest of the inputs, and mean and var, which a given norm has as constants: its coefficients say the same.
    inputs = (x, node._saved_weight, bias, *(None,) * 6)
    return CHANNEL_NORM.backward(attributes, needs, grad, inputs, state)[:3]  # type: ignore[arg-type]


def _with_mended_second(gradients: Gradients, grads: Gradients) -> Gradients | None:
    if not torch.is_grad_enabled():
        return None
    nodes = [g.grad_fn for g in gradients[:2] if g is not None]
    if functorch_is_active() or None in nodes:
        # The node behind gradients in batches is out of reach; those of our passes refuse to be differentiated again.
        return _fused_batch(gradients, grads)
    if nodes:
        node: Any = nodes[0]
        assert node.name() == "NativeBatchNormBackwardBackward0", node.name()
        x, weight, grad = node._saved_input, node._saved_weight, node._saved_grad_out
        node.register_hook(functools.partial(_third, node._saved_eps, x, weight, grad))
    # (The gradient of the bias alone is a sum.)
    return None


def _third(
    eps: float, x: Tensor, weight: Tensor | None, grad: Tensor, gradients: Gradients, cotangents: Gradients
) -> Gradients | None:
    """Gradients of the output's gradient, x and weight, to be differentiated again: those of the definition."""
    if not torch.is_grad_enabled():
        return None
    # Views cut the graph: a gain computed from x must not be differentiated twice.
    x, grad = x.view_as(x), grad.view_as(grad)
    weight = None if weight is None else weight.view_as(weight)
    bias = x.new_zeros(x.shape[1]).requires_grad_()
    x, grad = (t if t.requires_grad else t.detach().requires_grad_() for t in (x, grad))
    if weight is not None and not weight.requires_grad:
        weight = weight.detach().requires_grad_()
    y = reference.channel_norm(_attributes("batch", 1, eps), x, weight, bias, None, None, None)
    inputs = [t for t in (x, weight, bias) if t is not None]
    first = iter(torch.autograd.grad(y, inputs, grad, create_graph=True))
    by_place = (next(first), None if weight is None else next(first), next(first))
    asked = [(f, c) for f, c in zip(by_place, cotangents) if f is not None and c is not None]
    wanted = [grad, *inputs[:-1]]
    second = iter(
        torch.autograd.grad([f for f, _ in asked], wanted, [c for _, c in asked], create_graph=True, allow_unused=True)
    )
    found = (next(second), next(second), None if weight is None else next(second))
    return (*(f if g is not None else None for f, g in zip(found, gradients)), *gradients[3:])

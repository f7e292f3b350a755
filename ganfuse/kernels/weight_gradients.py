"""Weight gradients that nobody asked for.

A gradient penalty (R1, WGAN-GP, path length) differentiates for an image or a latent, and the weights' gradients on
the way are thrown away. PyTorch's own operations ask the engine which gradients will be used, and leave out the
others. A Python `torch.autograd.Function` is not told: its ``ctx.needs_input_grad`` says what requires grad, not what
somebody waits for. So the ops here that own a weight (a gain, a bias, a matrix to normalise) ask `gradients_wanted`.

`no_weight_gradients` says it by hand, and always holds; the engine's answer comes from a private function of PyTorch,
and is "wanted" wherever that cannot tell. Per-sample styles are no weights: they carry the gradient on to the latent.

Compiled graphs (`torch.compile`) know by themselves what is dead code, and outlive the context that they were traced
in: there neither is read.
"""

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

_depth = 0
_will_execute = getattr(torch._C, "_will_engine_execute_node", None)
_graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)
functorch_is_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
# The backward that was found to collect gradients of weights.
_collecting = -1


class no_weight_gradients(contextlib.ContextDecorator):
    """Inside, no backward of ganfuse's ops computes the gradient of a weight: a parameter shared by all samples.

    For the first backward of a penalty, whose gradients of the weights nobody reads. It is read when a backward runs,
    at whatever level, not when a forward does; so the penalty's own backward belongs outside, and is complete there.
    Inside, our ops' weights get no gradient even if asked for, and ``torch.autograd.grad`` calls them unused. (What
    runs as PyTorch's own operation, convolutions and norms of small maps on CPUs, leaves out what is not asked for.)
    May be nested, and holds for all threads (backwards on GPUs run in threads of their own).

    Example::

        with ganfuse.no_weight_gradients():
            (grad,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
        (gamma / 2 * grad.square().sum((1, 2, 3)).mean()).backward()
    """

    def __enter__(self) -> "no_weight_gradients":
        global _depth
        _depth += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _depth
        _depth -= 1


def weight_gradients_disabled() -> bool:
    """Whether `no_weight_gradients` is in force."""
    return _depth > 0


def gradients_wanted(
    ctx: Any, tensors: Sequence[Tensor | None], needs: Sequence[bool], weights: Sequence[bool]
) -> tuple[bool, ...]:
    """`needs`, less the gradients that nobody waits for; to be called in the backward of a Function.

    Args:
        ctx: of the Function.
        tensors: what its forward got, tensors and None where one was left out, in order, and nothing else.
        needs, weights: for the first ``len(needs)`` of them, whether they require grad and whether they are weights.
    """
    if _depth:
        needs = [need and not weight for need, weight in zip(needs, weights)]
    if _will_execute is None or sum(needs) < 2 or torch.compiler.is_compiling() or functorch_is_active():
        # With one gradient left there is nothing to ask: this backward runs because somebody wants one.
        return tuple(needs)
    edges = ctx.next_functions
    if len(edges) != sum(tensor is not None for tensor in tensors):
        return tuple(needs)
    following = iter(edges)
    wanted = []
    for tensor, need, weight in zip(tensors, needs, weights):
        node = None if tensor is None else next(following)[0]
        # The engine cannot tell of leaves that it collects for autograd.grad, and to find out is dear. A leaf that is
        # no weight was made to require grad for this.
        asked = need and node is not None and tensor is not None and (weight or not tensor.is_leaf)
        wanted.append(_is_wanted(node) if asked else need)
    return tuple(wanted)


def _is_wanted(node: Any) -> bool:
    global _collecting
    task = _graph_task()
    if task == _collecting and task >= 0:
        return True
    try:
        return bool(_will_execute(node))  # type: ignore[misc]
    except RuntimeError:
        # A leaf that autograd.grad collects. Each such answer costs an exception of 25 µs, so one per backward is
        # enough: who collects one weight collects them all.
        _collecting = task
        return True

"""Whether two modules, or two functions, compute the same: values, gradients, second derivatives, and buffers."""

import copy
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from ganfuse.interop.patches.swapping import Patched, original_class

__all__ = ["compare", "compare_functions", "copied", "prove", "released"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)
# Of the difference's norm to the value's. What is wrong is wrong by more; where rounding moves a value over the bend of
# an activation, one element's gradient is another one, and a maximum would see nothing else.
_TOLERANCE = {torch.float64: 1e-7, torch.float32: 5e-3, torch.float16: 1e-1, torch.bfloat16: 1e-1}


def copied(module: ModuleT) -> ModuleT:
    """A deep copy, also where PyTorch's spectral normalisation left a tensor with a graph in the module."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in part.__dict__.values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def prove(
    module: nn.Module,
    replace: Callable[[nn.Module], None],
    inputs: Callable[[], Sequence[Any]],
    call: str = "__call__",
) -> str | None:
    """Tries on copies, in float64 on the CPU, whether a replacement computes what the module does.

    Parameters are made random for it (what starts at 0 or 1 would hide its part in the result), in training and
    evaluation mode.

    Args:
        replace: changes a copy of `module` into the replacement.
        inputs: makes the arguments of a call.
        call: the method to compare.

    Returns:
        What differs, in words; None where nothing does.
    """
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        return "its tensors are on the meta device, so it cannot be tried"
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            torch.manual_seed(0)
            reference = copied(module).to("cpu", torch.float64).requires_grad_()
            for part in reference.modules():
                part._forward_hooks.clear()
                part._backward_hooks.clear()
            with torch.no_grad():
                for parameter in reference.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.3)
            for training in (True, False):
                candidate = copied(reference)
                replace(candidate)
                wrong = compare(reference.train(training), candidate.train(training), inputs(), {}, call=call)
                if wrong is not None:
                    return f"it computes something else in {'training' if training else 'evaluation'} ({wrong})"
    except Exception as error:
        return f"it could not be tried ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else error})"
    return None


def compare(
    reference: nn.Module,
    candidate: nn.Module,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    *,
    call: str = "__call__",
) -> str | None:
    """What differs between two modules with the same parameters, called on the same inputs; None: nothing.

    Both are changed as any call changes them.
    """
    functions = [getattr(module, call) for module in (reference, candidate)]
    parameters = [dict(module.named_parameters()) for module in (reference, candidate)]
    trained = [name for name, parameter in parameters[0].items() if parameter.requires_grad]
    values = [[some[name] for name in trained] for some in parameters]
    wrong = compare_functions(functions[0], functions[1], args, kwargs, (values[0], values[1]), trained)
    if wrong is not None:
        return wrong
    buffers = dict(candidate.named_buffers())
    for name, expected in reference.named_buffers():
        wrong = _differs(f"buffer {name}", expected, buffers[name])
        if wrong is not None:
            return wrong
    return None


def compare_functions(
    reference: Callable[..., Any],
    candidate: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    parameters: tuple[Sequence[Tensor], Sequence[Tensor]] = ((), ()),
    names: Sequence[str] = (),
    *,
    every: bool = True,
) -> str | None:
    """What differs between two functions on copies of the same inputs, with the same random numbers; None: nothing.

    Args:
        parameters, names: of either side, to differentiate for, too.
        every: whether all floating inputs are differentiated for, or those alone that require grad.
    """
    devices = {leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.is_cuda}
    found = []
    for function, own in zip((reference, candidate), parameters):
        with torch.random.fork_rng(devices=devices), torch.inference_mode(False):
            found.append(_derivatives(function, args, kwargs, list(own), every))
    expected, got = found
    count = len(expected[1]) - len(names)
    labels = [
        ["result"] * len(expected[0]),
        [*(f"gradient {i}" for i in range(count)), *(f"gradient of {name}" for name in names)],
        [f"second derivative {i}" for i in range(max(len(expected[2]), len(got[2])))],
    ]
    if [len(some) for some in expected[:2]] != [len(some) for some in got[:2]]:
        return "another number of results"
    scale = 0.0
    for texts, place in zip(labels, range(3)):
        one: list[Tensor | None] = list(expected[place])
        other: list[Tensor | None] = list(got[place])
        if place:
            # Where one derivative is 0 but for rounding (a saturated softmax), the others say what rounding is.
            scale = max(scale, *(float(value.detach().norm()) for value in one if value is not None), 0.0)
        # The gradient of a linear function is a constant, whether autograd knows or not: second derivatives may lack.
        for text, wanted, found_value in zip_longest(texts, one, other):
            wrong = _differs(text, wanted, found_value, scale)
            if wrong is not None:
                return wrong
    return None


def _derivatives(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], parameters: list[Tensor], every: bool
) -> tuple[list[Tensor], list[Tensor | None], list[Tensor | None]]:
    """Results, gradients for the floating inputs and the parameters, second derivatives for the inputs."""
    inputs: list[Tensor] = []

    def fresh(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        new = value.detach().clone()
        if new.is_floating_point() and (every or value.requires_grad):
            inputs.append(new.requires_grad_())
        # In-place activations may not write to a leaf.
        return new.view_as(new) if new.requires_grad else new

    with torch.enable_grad():
        args, kwargs = tree_map(fresh, (tuple(args), dict(kwargs)))
        results = function(*args, **kwargs)
        values = [leaf for leaf in tree_leaves(results) if isinstance(leaf, Tensor)]
        moving = [value for value in values if value.requires_grad]
        wanted = [*inputs, *parameters]
        if not (moving and wanted):
            return values, [None] * len(wanted), []
        loss = sum(((value * _weights(value)).sum() for value in moving), torch.zeros((), device=moving[0].device))
        first = torch.autograd.grad(loss, wanted, create_graph=True, allow_unused=True)
        again = [grad for grad in first[: len(inputs)] if grad is not None and grad.requires_grad]
        second: Sequence[Tensor | None] = []
        if again:
            bent = sum(((grad * _weights(grad)).sum() for grad in again), torch.zeros((), device=again[0].device))
            second = torch.autograd.grad(bent, inputs, allow_unused=True)
    return values, list(first), list(second)


def _weights(value: Tensor) -> Tensor:
    """Fixed numbers of both signs in a tensor's shape, to be summed with."""
    count = torch.arange(value.numel(), device=value.device, dtype=torch.float64)
    return torch.cos(count * 1.7 + 0.3).reshape(value.shape).to(value.dtype)


def _differs(name: str, expected: Tensor | None, got: Tensor | None, scale: float = 0.0) -> str | None:
    if expected is None or got is None:
        # A gradient of zeros may be no gradient.
        left = expected if got is None else got
        return None if left is None or not bool(left.any()) else f"{name} is missing on one side"
    if expected.shape != got.shape or expected.dtype != got.dtype:
        sides = f"{expected.dtype} {tuple(expected.shape)}", f"{got.dtype} {tuple(got.shape)}"
        return f"{name}: expected {sides[0]}, got {sides[1]}"
    if not expected.is_floating_point():
        return None if torch.equal(expected, got) else f"{name}: other values"
    wide, other = expected.detach().double(), got.detach().double()
    if not torch.equal(wide.isfinite(), other.isfinite()):
        return f"{name}: not finite in other places"
    wide, other = wide.nan_to_num(posinf=0, neginf=0), other.nan_to_num(posinf=0, neginf=0)
    error, norm = float((wide - other).norm()), max(float(wide.norm()), scale, 1e-6)
    if error <= _TOLERANCE[expected.dtype] * norm:
        return None
    return f"{name}: relative error {error / norm:.2g}, where {_TOLERANCE[expected.dtype]:.0e} is allowed"


def released(module: nn.Module) -> nn.Module:
    """A copy with the class that the module had before it was patched; its children stay as they are."""
    new = copied(module)
    if isinstance(new, Patched):
        new.__class__ = original_class(new)  # type: ignore[assignment]
    return new

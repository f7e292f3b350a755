"""Norms by name, with inputs of every shape, layout and kind of parameter, and all derivatives on them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels import Prologue, batch_norm_act, group_norm_act, instance_norm_act, layer_instance_norm_act
from tests.kernels.assertions import assert_as_accurate
from tests.kernels.feature_attention.problems import arrange, numbers

Function = Callable[..., Tensor]


class Problem(NamedTuple):
    """One call: which norm, of maps of which shape, with which parameters.

    Attributes:
        parameters: "shared" (C,), "own" (B, C), "none", or "gain" or "bias" alone, (C,).
        noise: "" for none, "shared" (1, 1, H, W), "own" (B, 1, H, W); after the affine map, or in the prologue.
        prologue: its activation, "" for no prologue; it has a bias unless `parameters` is "none".
    """

    norm: str
    shape: tuple[int, int, int, int]
    parameters: str = "shared"
    activation: str = "none"
    layout: str = "nchw"
    noise: str = ""
    prologue: str = ""


def call(problem: Problem, backend: str | None) -> Callable[..., Tensor]:
    """The norm as a function of the problem's inputs."""
    options: dict[str, Any] = {"activation": problem.activation, "backend": backend}
    has_gain = problem.parameters in ("shared", "own", "gain")
    has_bias = problem.parameters in ("shared", "own", "bias")

    def run(x: Tensor, *others: Tensor) -> Tensor:
        rest = list(others)
        gain = rest.pop(0) if has_gain else None
        bias = rest.pop(0) if has_bias else None
        noise = (rest.pop(0), rest.pop(0)) if problem.noise else (None, None)
        if problem.prologue:
            before = Prologue(*noise, rest.pop(0) if has_bias else None, problem.prologue)
            unbiased = problem.norm == "instance unbiased"
            return instance_norm_act(x, gain, bias, prologue=before, unbiased=unbiased, **options)
        options.update(noise=noise[0], noise_strength=noise[1])
        if problem.norm == "batch":
            return batch_norm_act(x, gain, bias, None, None, training=True, **options)
        if problem.norm == "given":
            mean = torch.linspace(-1, 1, x.shape[1], dtype=torch.float64).to(x)
            return batch_norm_act(x, gain, bias, mean, (mean + 2) ** 2, training=False, **options)
        if problem.norm == "instance":
            return instance_norm_act(x, gain, bias, **options)
        if problem.norm == "instance unbiased":
            return instance_norm_act(x, gain, bias, unbiased=True, eps=1e-3, **options)
        if problem.norm == "layer":
            return group_norm_act(x, 1, gain, bias, **options)
        if problem.norm == "group":
            groups = next(g for g in (3, 2, 1) if x.shape[1] % g == 0)
            return group_norm_act(x, groups, gain, bias, **options)
        return layer_instance_norm_act(x, rest[0], gain, bias, unbiased=problem.norm == "mix", **options)

    return run


NORMS = ("batch", "given", "instance", "instance unbiased", "layer", "group", "mix", "mix biased")


def make_inputs(
    problem: Problem,
    dtype: torch.dtype = torch.float64,
    parameter_dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> tuple[Tensor, ...]:
    """x and the parameters, leaves that require gradients."""
    batch, channels = problem.shape[:2]
    x = arrange((2 * numbers(problem.shape, torch.float64, 0) + 0.7).to(device, dtype), problem.layout)
    made = [x.detach().requires_grad_()]
    shape = (batch, channels) if problem.parameters == "own" else (channels,)
    count = {"none": 0, "gain": 1, "bias": 1}.get(problem.parameters, 2)
    made += [numbers(shape, parameter_dtype or dtype, 1 + i).requires_grad_() for i in range(count)]
    if problem.noise:
        positions = (batch if problem.noise == "own" else 1, 1, *problem.shape[2:])
        made += [numbers(s, parameter_dtype or dtype, 7).requires_grad_() for s in (positions, (channels,))]
    if problem.prologue and count == 2:
        made.append(numbers((channels,), parameter_dtype or dtype, 9).requires_grad_())
    if problem.norm.startswith("mix"):
        made.append(torch.sigmoid(numbers((channels,), torch.float64, 5)).to(parameter_dtype or dtype).requires_grad_())
    return (made[0], *(t.detach().to(device).requires_grad_() for t in made[1:]))


def derivatives(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], order: int = 2
) -> Iterator[tuple[str, Tensor]]:
    """The output, its gradients, and (order 2) theirs, for random cotangents that are the same in every type."""
    output = function(*inputs)
    yield "output", output
    if order == 0:
        return
    grad_output = numbers(output.shape, output.dtype, 10).to(output.device).requires_grad_(order > 1)
    first = torch.autograd.grad(output, inputs, grad_output, create_graph=order > 1)
    yield from ((f"gradient {i}", g) for i, g in enumerate(first))
    if order == 1:
        return
    cotangents = [numbers(g.shape, g.dtype, 20 + i).to(g.device) for i, g in enumerate(first)]
    wanted = (grad_output, *inputs)
    # Linear in some inputs, the definition gives them no second derivative where ours gives zeros.
    second = torch.autograd.grad(first, wanted, cotangents, allow_unused=True)
    yield from (
        (f"second {i}", torch.zeros_like(t) if g is None else g) for i, (g, t) in enumerate(zip(second, wanted))
    )


def packed(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return x.detach().to(dtype or x.dtype).clone(memory_format=torch.contiguous_format).requires_grad_()


def check(problem: Problem, backend: str, inputs: tuple[Tensor, ...] | None = None, order: int = 2) -> None:
    """Assert that all derivatives are as accurate as those of the definition, in the inputs' types."""
    inputs = make_inputs(problem) if inputs is None else inputs
    _compare(call(problem, backend), call(problem, "reference"), inputs, order)


def _compare(ours: Function, plain: Function, inputs: tuple[Tensor, ...], order: int) -> None:
    exact = derivatives(plain, tuple(packed(x, torch.float64) for x in inputs), order)
    in_type = derivatives(plain, tuple(map(packed, inputs)), order)
    for (name, actual), (_, expected), (_, truth) in zip(derivatives(ours, inputs, order), in_type, exact, strict=True):
        assert_as_accurate(actual, expected, truth.detach(), name)


def noise_held(problem: Problem, inputs: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Callable[[str], Function]]:
    """What training differentiates for, everything but the noise: (leaves, backend -> the norm as their function)."""
    place = next((i for i, t in enumerate(inputs) if t.ndim == 4 and i > 0), None)
    if place is None:
        return inputs, lambda backend: call(problem, backend)
    # The same numbers in every type.
    noise = inputs[place].detach().to(torch.bfloat16)
    leaves = (*inputs[:place], *inputs[place + 1 :])

    def norm(backend: str) -> Function:
        run = call(problem, backend)
        return lambda *t: run(*t[:place], noise.to(t[0].dtype), *t[place:])

    return leaves, norm


def check_noise_held(problem: Problem, backend: str, inputs: tuple[Tensor, ...], order: int = 1) -> None:
    """As `check`, of everything but the noise: through the fused backwards, where its own gradient is composed."""
    leaves, norm = noise_held(problem, inputs)
    _compare(norm(backend), norm("reference"), leaves, order)

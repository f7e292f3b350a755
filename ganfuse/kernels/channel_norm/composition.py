"""Forward, backward and double backward from passes over feature maps and the algebra between them.

Serves every backend whose (B, C) arithmetic is PyTorch's: the eager form, and Triton's where processes share a batch.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.channel_norm import algebra, allocation
from ganfuse.kernels.channel_norm import allocation as plane
from ganfuse.kernels.channel_norm.allocation import Attributes


class Passes(Protocol):
    """The passes over feature maps; g = act'(z)·dy, z = slope·d + offset, d = x − centre, per (b, c).

    One object serves one forward, backward or second backward, and may keep from one pass what the next needs again.
    """

    def statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C) mean and centred square sum over the positions."""

    def apply(self, attributes: Attributes, x: Tensor, coefficients: Tensor) -> Tensor:
        """act(z)."""

    def sums(self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Σg and Σg·d of each row."""

    def apply_backward(
        self, attributes: Attributes, x: Tensor, grad: Tensor, coefficients: Tensor, constant: Tensor, linear: Tensor
    ) -> Tensor:
        """slope·g + constant + linear·d."""

    def double_sums(
        self, attributes: Attributes, x: Tensor, grad: Tensor, h: Tensor, coefficients: Tensor
    ) -> tuple[Tensor, ...]:
        """The sums of `algebra.double_backward`."""

    def apply_double_backward(
        self, attributes: Attributes, x: Tensor, grad: Tensor, h: Tensor, coefficients: Tensor, second: algebra.Second,
        needs_grad: bool, needs_x: bool,
    ) -> tuple[Tensor | None, Tensor | None]:  # fmt: skip
        """(∂dy, ∂x) of `algebra.Second`."""


def positions_of(x: Tensor) -> int:
    return x.shape[2] * x.shape[3]


def composed(new_passes: Callable[[Tensor], Passes]) -> Implementation:
    """The launchers made of passes, which `new_passes` has for a map."""

    def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
        x = inputs[0]
        passes = new_passes(x)
        if attributes.kind == "given":
            mean = squares = x.new_empty(x.shape[:2], dtype=allocation.accumulator(x.dtype))
        else:
            mean, squares = passes.statistics(x)
        coefficients, moments = algebra.forward(attributes, mean, squares, positions_of(x), inputs)
        return passes.apply(attributes, x, coefficients), coefficients, moments

    def backward(
        attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
    ) -> tuple[Gradients, Tensors]:
        x, gain, bias, rho = inputs[:4]
        coefficients, moments = state
        passes = new_passes(x)
        # Statistics that are given need no sums for the gradient of x.
        if not any(needs[1:4]) and attributes.kind == "given":
            zeros = coefficients.new_zeros(x.shape[:2])
            return (passes.apply_backward(attributes, x, grad_output, coefficients, zeros, zeros), *(None,) * 8), ()
        ones, centred = passes.sums(attributes, x, grad_output, coefficients)
        terms = algebra.terms(attributes, coefficients, moments, positions_of(x), gain, rho)
        (constant, linear), weights = algebra.backward(attributes, terms, ones, centred)
        on_gain, on_rho = algebra.to_parameters(attributes, weights, gain, rho, needs[1], needs[3])
        on_x = None
        if needs[0]:
            on_x = passes.apply_backward(attributes, x, grad_output, coefficients, constant, linear)
        on_bias = ones if needs[2] else None
        return (on_x, *_reduced((on_gain, on_bias, on_rho), (gain, bias, rho)), *(None,) * 5), ()

    def double_backward(
        attributes: Attributes,
        needs: Needs,
        cotangents: Tensors,
        grad_output: Tensor,
        inputs: Tensors,
        output: Tensor,
        state: Tensors,
        notes: Tensors,
    ) -> Gradients:
        x, gain, bias, rho = inputs[:4]
        coefficients, moments = state
        passes = new_passes(x)
        h, gain_cotangent, bias_cotangent, rho_cotangent = (
            None if c is None else c if i == 0 else c.to(coefficients.dtype) for i, c in enumerate(cotangents[:4])
        )
        assert h is not None
        sums = passes.double_sums(attributes, x, grad_output, h, coefficients)
        terms = algebra.terms(attributes, coefficients, moments, positions_of(x), gain, rho)
        k = algebra.from_parameters(attributes, gain, rho, gain_cotangent, rho_cotangent)
        slope = coefficients[plane.SLOPE]
        second, weights, on_bias = algebra.double_backward(attributes, terms, sums, k, bias_cotangent, slope)
        on_gain, on_rho = algebra.to_parameters(attributes, weights, gain, rho, needs[2], needs[4])
        if attributes.kind == "mix":
            # gain and rho also enter their own gradients, through Σ g·x̂ of the two terms.
            apart = terms[1].against(*sums[:2]) - terms[0].against(*sums[:2])
            if on_gain is not None and rho_cotangent is not None:
                on_gain = on_gain + rho_cotangent * apart
            if on_rho is not None and gain_cotangent is not None:
                on_rho = on_rho + gain_cotangent * apart
        on_grad, on_x = passes.apply_double_backward(
            attributes, x, grad_output, h, coefficients, second, needs[0], needs[1]
        )
        if needs[3] and on_bias is None:
            on_bias = coefficients.new_zeros(x.shape[:2])
        kept = (on_gain, on_bias if needs[3] else None, on_rho)
        return (on_grad, on_x, *_reduced(kept, (gain, bias, rho)), *(None,) * 5)

    return Implementation(
        forward, backward, double_backward,
        allocation.fake_forward, allocation.fake_backward, allocation.fake_double_backward,
    )  # fmt: skip


def _reduced(gradients: Gradients, parameters: tuple[Tensor | None, ...]) -> Gradients:
    return tuple(
        None if g is None or p is None else algebra.reduce_to(g, p).contiguous() for g, p in zip(gradients, parameters)
    )

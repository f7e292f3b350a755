"""Orthogonal regularisation: filters that are pushed towards being orthogonal to each other.

With W the weight as a matrix, one filter (output) per row, and 𝟙 all ones:

    original (Brock et al. 2017, arXiv:1609.07093):          R = β ‖W Wᵀ − I‖²          dW = 4β (W Wᵀ − I) W
    off-diagonal (Brock et al. 2018, BigGAN, section 3.1):   R = β ‖W Wᵀ ∘ (𝟙 − I)‖²    dW = 4β (W Wᵀ ∘ (𝟙 − I)) W

Norms are Frobenius norms. BigGAN's β is 1e-4; its authors' PyTorch code adds half of the gradient, which makes its β
of 1e-4 half as large here. Embeddings are left out, as there.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.sharded_tensors import is_sharded, shard_like
from ganfuse.engine.weight_matrices import weight_matrices

__all__ = ["FORMS", "OrthogonalGradient", "add_orthogonal_gradient", "orthogonal_penalty"]

FORMS = ("off_diagonal", "original")


def orthogonal_penalty(
    model: nn.Module, beta: float = 1e-4, *, form: str = "off_diagonal", exclude: Iterable[nn.Module] = ()
) -> Tensor:
    """R, summed over the convolutions and linear layers of `model`: a scalar to add to a loss, differentiable.

    Weights under spectral normalisation count before it. `add_orthogonal_gradient` has the same effect on training for
    about a third of the cost.

    Args:
        beta: factor of the penalty.
        form: ``"off_diagonal"`` or ``"original"``.
        exclude: layers to leave out.

    Raises:
        ValueError: unknown form, negative beta, or no weight to penalise.
    """
    _check(beta, form)
    left_out = set(exclude)
    total: Tensor | None = None
    for weight in weight_matrices(model, embeddings=False):
        if weight.layer not in left_out:
            matrix = weight.parameter.movedim(weight.dim, 0).flatten(1)
            penalty = _deviation(matrix @ matrix.t(), form).square().sum()
            total = penalty if total is None else total + penalty
    if total is None:
        raise ValueError(f"{type(model).__name__} has no convolution or linear layer to penalise")
    return beta * total


@torch.no_grad()
def add_orthogonal_gradient(
    model: nn.Module, beta: float = 1e-4, *, form: str = "off_diagonal", exclude: Iterable[nn.Module] = ()
) -> None:
    """Add the gradient of `orthogonal_penalty` to the gradients of the weights, in place, with no graph.

    Call it between backward and the optimiser's step, or let `OrthogonalGradient` do so. Weights without a gradient
    (that take no part in this step) are left alone.

    Args: see `orthogonal_penalty`.
    """
    _check(beta, form)
    left_out = set(exclude)
    for weight in weight_matrices(model, embeddings=False):
        grad = weight.parameter.grad
        if grad is None or weight.layer in left_out:
            continue
        matrix = weight.matrix()
        deviation = _deviation(matrix @ matrix.t(), form)
        rows = grad.movedim(weight.dim, 0)
        if is_sharded(grad):
            grad.add_(shard_like(weight.shaped(deviation @ matrix), grad), alpha=4.0 * beta)
        elif rows.is_contiguous():
            rows.view(matrix.shape).addmm_(deviation, matrix, alpha=4.0 * beta)
        else:
            grad.add_(weight.shaped(deviation @ matrix), alpha=4.0 * beta)


class OrthogonalGradient:
    """Adds the penalty's gradient before each step of an optimiser.

    Args: see `orthogonal_penalty`.

    Example::

        trainer = Trainer(game, "digits", out="runs/a")
        optimizer = trainer.turn_runner.optimizers["generator"]
        optimizer.register_step_pre_hook(OrthogonalGradient(game.generator))
        trainer.fit()
    """

    def __init__(
        self, model: nn.Module, beta: float = 1e-4, *, form: str = "off_diagonal", exclude: Iterable[nn.Module] = ()
    ) -> None:
        _check(beta, form)
        self.model = model
        self.beta = beta
        self.form = form
        self.exclude = tuple(exclude)

    def __call__(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        add_orthogonal_gradient(self.model, self.beta, form=self.form, exclude=self.exclude)


def _deviation(gram: Tensor, form: str) -> Tensor:
    """What the penalty squares: W Wᵀ off the diagonal, or W Wᵀ − I."""
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return gram - identity if form == "original" else gram * (1.0 - identity)


def _check(beta: float, form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(map(repr, FORMS))}, got {form!r}")
    if not beta >= 0:
        raise ValueError(f"beta: expected a number >= 0, got {beta!r}")

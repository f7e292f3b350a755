"""Penalties of adversarial games, as pure functions. Each returns a scalar, in float32 at least, without its weight.

Gradient penalties are second-order: the turn that uses one is marked `second_order`. They differentiate the *sum* of
the scores, so that each image has the gradient of its own score, as long as the discriminator does not mix images.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ganfuse.engine.precision import at_least_float32, penalty_scale
from ganfuse.kernels import no_weight_gradients

__all__ = [
    "consistency",
    "cutmix_mask",
    "dragan_penalty",
    "drift",
    "input_gradient",
    "path_length",
    "r1_penalty",
    "wgan_gp_penalty",
]


def input_gradient(outputs: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """∂ Σ outputs / ∂ inputs, to be differentiated again; in float32 at least.

    Weight gradients are not computed on the way. Under float16 loss scaling the sum is scaled, and the gradients are
    scaled back in float32, so that small ones survive.

    Args:
        outputs: of any shape.
        inputs: tensors that require grad and that the outputs depend on.

    Raises:
        ValueError: the outputs do not depend on an input in a way that can be differentiated twice. A penalty without
            gradients would silently do nothing.
    """
    if not outputs.requires_grad:
        raise ValueError("outputs: they do not require grad, so there is no gradient to penalise")
    scale = penalty_scale()
    with torch.autocast(outputs.device.type, enabled=False), no_weight_gradients():
        found = torch.autograd.grad(
            at_least_float32(outputs).sum() * scale, list(inputs), create_graph=True, allow_unused=True
        )
        gradients = []
        for gradient in found:
            if gradient is None:
                raise ValueError("inputs: the outputs do not depend on one of them")
            wide = at_least_float32(gradient)
            gradients.append(wide / scale if scale != 1.0 else wide)
    return gradients


def r1_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """½ E ‖∇ₓ D(x)‖² on real images x; R2 is the same on generated ones. Mescheder et al. 2018 (1801.04406), eq. 9.

    Args:
        scores: D(x), one or more per image.
        images: x (B, C, H, W), which requires grad.
    """
    (gradient,) = input_gradient(scores, [images])
    return 0.5 * gradient.square().flatten(1).sum(1).mean()


def wgan_gp_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor, *, target: float = 1.0
) -> Tensor:
    """E (‖∇ D(x̂)‖ / target − 1)² at x̂ = x + mix·(G(z) − x). Gulrajani et al. 2017 (arXiv 1704.00028), eq. 3.

    Args:
        discriminator: images to scores.
        real, fake: (B, C, H, W).
        mix: uniform in [0, 1), (B, 1, 1, 1).
        target: the norm that is not penalised (ProGAN's 1).
    """
    # Generated images come in a half type under autocast.
    between = torch.lerp(real.detach(), fake.detach().to(real.dtype), mix.to(real.dtype)).requires_grad_()
    (gradient,) = input_gradient(discriminator(between), [between])
    return (_norms(gradient) / target - 1.0).square().mean()


def dragan_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor, uniform: Tensor, mix: Tensor) -> Tensor:
    """E (‖∇ D(x̂)‖ − 1)² near real images: x̂ = x + mix·½·std(x)·u. Kodali et al. 2017 (DRAGAN, arXiv 1705.07215), eq. 2.

    Args:
        discriminator: images to scores.
        real: x (B, C, H, W).
        uniform: u in [0, 1), of x's shape.
        mix: uniform in [0, 1), (B, 1, 1, 1).
    """
    real = real.detach()
    near = (real + mix * 0.5 * real.std(correction=0) * uniform).requires_grad_()
    (gradient,) = input_gradient(discriminator(near), [near])
    return (_norms(gradient) - 1.0).square().mean()


def drift(scores: Tensor) -> Tensor:
    """E D(x)²: keeps a critic's scores near zero. Karras et al. 2018 (ProGAN, arXiv 1710.10196), appendix A.1."""
    return at_least_float32(scores).square().mean()


def path_length(images: Tensor, styles: Tensor, noise: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """E (‖Jᵀ y‖ − a)² and E ‖Jᵀ y‖, J = ∂G/∂w. Karras et al. 2020 (StyleGAN2, arXiv 1912.04958), section 3.2, eq. 4.

    Args:
        images: G(w), (B, C, H, W).
        styles: w, (B, L, D) for L layers, which requires grad. The length is the root of the mean over layers.
        noise: y ~ N(0, 1), of the images' shape.
        mean: a, a scalar: the moving average of the second result over the steps, kept by the caller.

    Returns:
        The penalty, and the batch's mean length, detached.
    """
    height, width = images.shape[2:]
    (gradient,) = input_gradient(images * (noise / (height * width) ** 0.5), [styles])
    lengths = gradient.square().sum(2).mean(1).sqrt()
    return (lengths - mean).square().mean(), lengths.mean().detach()


def consistency(first: Tensor, second: Tensor) -> Tensor:
    """E (D(T(x)) − D(x))². Zhang et al. 2020 (CR-GAN, arXiv 1910.12027), eq. 2; U-Net GAN's has CutMix for T."""
    return (at_least_float32(first) - at_least_float32(second)).square().mean()


def cutmix_mask(ratio: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """Masks (B, 1, H, W): 0 in one box per image, 1 outside it. Yun et al. 2019 (CutMix, 1905.04899), eqs. 1 and 2.

    Args:
        ratio: share of the image outside the box, (B,), from Beta(1, 1).
        centre: of the box, uniform in [0, 1), (B, 2): vertical, horizontal. Boxes are clipped at the borders.
        height, width: of the masks, in pixels.
    """
    sides = torch.sqrt(1.0 - ratio)
    inside = []
    for position, side, size, axis in ((centre[:, 0], sides, height, 1), (centre[:, 1], sides, width, 2)):
        middle, half = position * size, side * size / 2.0
        low, high = (middle - half).floor().clamp(0, size), (middle + half).floor().clamp(0, size)
        pixels = torch.arange(size, device=ratio.device)
        within = (pixels >= low[:, None]) & (pixels < high[:, None])
        inside.append(within.unsqueeze(3 - axis))
    return (~(inside[0] & inside[1])).to(ratio.dtype).unsqueeze(1)


def _norms(gradient: Tensor) -> Tensor:
    # The root's slope at 0 is infinite: a constant discriminator would get NaN.
    return gradient.square().flatten(1).sum(1).clamp_min(1e-24).sqrt()

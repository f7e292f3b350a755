"""DCGAN: Unsupervised Representation Learning with Deep Convolutional GANs (Radford, Metz & Chintala 2016, 1511.06434).

At 64 px and 3 channels the players have 3,576,704 and 2,765,568 parameters, those of the form in which DCGAN is best
known: 4×4 kernels, 512 channels at 4×4, z ~ N(0, 1). The paper's own has 5×5 kernels, 1024 channels and z ~ U(-1, 1):
``kernel_size=5``, ``width=128``, ``latent="uniform"``. At 28 px there is a small variant for Fashion-MNIST.
"""

from collections.abc import Sequence

import torch
from torch import nn

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.models.checks import check_choice, check_count, check_positive, check_resolution
from ganfuse.models.dcgan_networks import ConvFeatures, ConvGenerator, SmallConvFeatures, SmallConvGenerator
from ganfuse.models.feature_discriminator import FeatureDiscriminator, Features
from ganfuse.models.gan import replay_pool
from ganfuse.models.initialization import normal_weights
from ganfuse.models.registry import register_model

RESOLUTIONS = (28, 32, 64, 128)
LATENTS = ("normal", "uniform")


def conv_networks(
    *, resolution: int, channels: int, width: int, latent_dim: int, kernel_size: int, condition_features: int = 0
) -> tuple[nn.Module, Features]:
    """The generator, and the discriminator's features, for one of `RESOLUTIONS`.

    `condition_features` are those that the discriminator sees beside the image.

    Raises:
        ValueError: names the argument.
    """
    check_resolution("DCGAN", resolution, RESOLUTIONS)
    if kernel_size not in (4, 5):
        raise ValueError(f"kernel_size: expected 4 or 5, got {kernel_size!r}")
    generator: nn.Module
    features: Features
    if resolution == 28:
        generator = SmallConvGenerator(channels=channels, width=width, latent_dim=latent_dim)
        features = SmallConvFeatures(channels=channels, width=width, condition_features=condition_features)
    else:
        shape = {"resolution": resolution, "channels": channels, "width": width, "kernel_size": kernel_size}
        generator = ConvGenerator(latent_dim=latent_dim, **shape)
        features = ConvFeatures(condition_features=condition_features, **shape)
    for network in (generator, features):
        # A step takes two thirds to nine tenths of the time so on CPUs, and GPUs want it for their tensor cores.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator, features


@register_model(
    summary="convolutions, batch normalisation; a small variant at 28 px",
    paper="Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks",
    arxiv="1511.06434",
    resolutions=RESOLUTIONS,
)
def dcgan(
    *,
    resolution: int = 64,
    channels: int = 3,
    width: int = 64,
    latent_dim: int = 100,
    latent: str = "normal",
    kernel_size: int = 4,
    loss: str = "non-saturating",
    generator_lr: float = 2e-4,
    discriminator_lr: float = 2e-4,
    betas: Sequence[float] = (0.5, 0.999),
    discriminator_steps: int = 1,
    r1_gamma: float = 0.0,
    wgan_gp: float = 0.0,
    minibatch_kernels: int = 0,
    replay: int = 0,
    ema_decay: float | None = None,
) -> AdversarialGame:
    """DCGAN with the recipe of section 4: Adam, rate 2e-4, β₁ = 0.5, weights from N(0, 0.02²), leaky slope 0.2.

    Args:
        resolution: 32, 64 (the paper's) or 128; 28: the small variant, with 5×5 kernels, and dropout in place of the
            discriminator's batch normalisation.
        channels: of the images.
        width: channels at half the resolution; the paper's is 128.
        latent_dim: size of z.
        latent: "normal", N(0, 1), or "uniform", U(-1, 1), as in the paper.
        kernel_size: 4, or 5 as in the paper.
        loss, generator_lr, discriminator_lr, betas, discriminator_steps, r1_gamma, wgan_gp: see `AdversarialGame`.
        minibatch_kernels: features of minibatch discrimination (Salimans et al. 2016, whose code has 100); 0: none.
        replay: show the discriminator a history of so many generated images (experience replay); 0: the present ones.
        ema_decay: of a moving average of the generator, which the paper does not have; None: none.

    Raises:
        ValueError: for a resolution that is not there and values out of range.
    """
    check_positive(channels=channels, width=width, latent_dim=latent_dim)
    check_choice("latent", latent, LATENTS)
    check_count(minibatch_kernels=minibatch_kernels)
    generator, features = conv_networks(
        resolution=resolution, channels=channels, width=width, latent_dim=latent_dim, kernel_size=kernel_size
    )
    discriminator = FeatureDiscriminator(features, minibatch_kernels=minibatch_kernels, bias=resolution == 28)
    normal_weights(discriminator)
    return AdversarialGame(
        generator,
        discriminator,
        loss,
        latent_dim=latent_dim,
        latent=latent,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        discriminator_steps=discriminator_steps,
        r1_gamma=r1_gamma,
        wgan_gp=wgan_gp,
        replay=replay_pool(replay, channels, resolution),
        ema_decay=ema_decay,
    )

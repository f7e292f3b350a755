"""The gallery's runs: minutes on one CPU core, so narrow networks, large learning rates and short schedules."""

from dataclasses import dataclass

__all__ = ["RECIPES", "Recipe"]

BY_CLASS = "--classes each --num 100 --columns 10"


@dataclass(frozen=True)
class Recipe:
    """One run.

    Attributes:
        title: of its section.
        note: what differs from the system's defaults, and why.
        steps: to train for.
        train: further arguments of ``ganfuse train MODEL``.
        factor: the FID of the first step over that of the last must be at least this.
        sample: arguments of ``ganfuse sample`` for the picture.
        evaluate: arguments of ``ganfuse evaluate``, for both ends of the run alike.
        model: where it is not the recipe's own name.
        data: source of the training images.
    """

    title: str
    note: str
    steps: int
    train: str
    factor: float
    sample: str = "--num 80 --columns 10"
    evaluate: str = ""
    model: str = ""
    data: str = "fashion-mnist"


RECIPES: dict[str, Recipe] = {
    "gan": Recipe(
        "GAN",
        "Perceptrons with batch normalisation in the generator (`architecture=batch-norm`), and a moving average.",
        steps=4000,
        train="--resolution 28 --batch-size 64 --set architecture=batch-norm --set ema_decay=0.999",
        factor=3,
    ),
    "dcgan": Recipe(
        "DCGAN",
        "A quarter of the usual width, a moving average, and more than twice the paper's learning rates.",
        steps=2000,
        train="--resolution 32 --batch-size 64 --set width=16 --set ema_decay=0.995 --set generator_lr=5e-4 "
        "--set discriminator_lr=5e-4",
        factor=5,
    ),
    "cgan": Recipe(
        "cGAN",
        "DCGAN's networks at a quarter of their width, the label's embedding beside image and latents "
        "(`conditioning=concat`).",
        steps=2500,
        train="--resolution 32 --batch-size 64 --set architecture=convolutional --set width=16 --set ema_decay=0.995 "
        "--set generator_lr=5e-4 --set discriminator_lr=5e-4",
        factor=6,
        sample=BY_CLASS,
    ),
    "gan-cls": Recipe(
        "GAN-CLS",
        "Text to image: captions that name the classes, embedded by fixed word vectors, one at a time; no random "
        "crops, which would be part of what is learnt. Narrow networks, larger learning rates and a moving "
        "average. A row for each class's name.",
        steps=2600,
        train="--resolution 32 --batch-size 64 --set width=16 --set discriminator_width=16 --set ema_decay=0.995 "
        "--set generator_lr=5e-4 --set discriminator_lr=5e-4 --set load_size=32 --set captions=1",
        factor=4,
        sample="--text each --num 100 --columns 10",
        data="captioned:fashion-mnist",
    ),
    "progan": Recipe(
        "ProGAN",
        "From 4 to 32 px in 24,000 images: phases of 4,000, where the paper has 800,000.",
        steps=1250,
        train="--resolution 32 --batch-size 32 --set width=16 --set channel_max=64 --set latent_dim=64 "
        "--set batch_sizes=null --set stable_kimg=4 --set fade_kimg=4 --set lr=2e-3 --set ema_decay=0.99",
        factor=2.5,
    ),
    "stylegan": Recipe(
        "StyleGAN",
        "From 8 to 32 px in phases of 8,000 images, where the paper has 600,000; class-conditional, narrow, with a "
        "shorter mapping network, a weaker R1, a larger learning rate and no style mixing. Some pictures are still of "
        "another class than their row.",
        steps=2600,
        train="--resolution 32 --batch-size 32 --set width=16 --set channel_max=64 --set latent_dim=64 "
        "--set style_features=64 --set mapping_layers=4 --set batch_sizes=null --set stable_kimg=8 --set fade_kimg=8 "
        "--set lr=3e-3 --set r1_gamma=0.3 --set ema_kimg=3 --set style_mixing=0",
        factor=4,
        sample=f"{BY_CLASS} --truncation 0.7",
    ),
    "stylegan2": Recipe(
        "StyleGAN2",
        "Class-conditional, by the preset that scales with resolution and batch (`config=auto`), with a stronger R1, "
        "and without style mixing, which slows the beginning.",
        steps=1300,
        train="--resolution 32 --batch-size 32 --set config=auto --set width=10 --set channel_max=40 "
        "--set latent_dim=64 --set style_features=64 --set lr=5e-3 --set ema_kimg=1 --set style_mixing=0 "
        "--set r1_gamma=0.3 --set path_length_interval=8",
        factor=2,
        sample=f"{BY_CLASS} --truncation 0.7",
    ),
    "sagan": Recipe(
        "SAGAN",
        "A quarter of the paper's width, batches of 32 instead of 256, larger learning rates (1:2 instead of 1:4), and "
        "a moving average, which the paper does not have.",
        steps=3000,
        train="--resolution 32 --batch-size 32 --set width=16 --set ema_decay=0.997 --set generator_lr=4e-4 "
        "--set discriminator_lr=8e-4",
        factor=8,
        sample=BY_CLASS,
    ),
    "biggan": Recipe(
        "BigGAN",
        "A tenth of the paper's width, pieces of 8 latents instead of 20, one step of each player instead of two of "
        "the discriminator, batches of 32 instead of 2,048; larger learning rates and a shorter memory of Adam's "
        "second moment and of the average. Truncated at 1.",
        steps=3000,
        train="--resolution 32 --batch-size 32 --set width=10 --set latent_dim=32 --set shared_features=32 "
        "--set discriminator_steps=1 --set generator_lr=4e-4 --set discriminator_lr=8e-4 --set betas=[0.0,0.99] "
        "--set ema_decay=0.997 --set ema_start=100",
        factor=8,
        sample=f"{BY_CLASS} --truncation 1",
    ),
    "biggan-deep": Recipe(
        "BigGAN-deep",
        "A fifth of the paper's width, 16 latents instead of 128 beside the class in each normalisation, one step of "
        "each player instead of two of the discriminator, batches of 32 instead of 2,048; larger learning rates and a "
        "shorter memory of Adam's second moment and of the average. Truncated at 1.",
        steps=2500,
        train="--resolution 32 --batch-size 32 --set width=24 --set shared_features=32 --set latent_dim=16 "
        "--set discriminator_steps=1 --set generator_lr=3e-4 --set discriminator_lr=6e-4 "
        "--set betas=[0.0,0.99] --set ema_decay=0.997 --set ema_start=100",
        factor=10,
        sample=f"{BY_CLASS} --truncation 1",
    ),
    "logan": Recipe(
        "LOGAN",
        "On the small base (`base=sn-cnn`), a fifth of its width, with the natural-gradient step; 32 latents instead "
        "of 256, the damping of the large base and a weight of 1 for the step's cost, one step of each player instead "
        "of two of the discriminator; larger learning rates and a shorter memory of Adam's second moment and of the "
        "average.",
        steps=2200,
        train="--resolution 32 --batch-size 32 --set base=sn-cnn --set width=12 --set latent_dim=32 "
        "--set latent_damping=5 --set latent_cost=1 --set discriminator_steps=1 --set generator_lr=4e-4 "
        "--set discriminator_lr=1e-3 --set betas=[0.0,0.99] --set ema_decay=0.997 --set ema_start=100",
        factor=6,
        sample=BY_CLASS,
    ),
    "unet-gan": Recipe(
        "U-Net GAN",
        "An eighth of the paper's width, a quarter of its latents; CutMix within one and a half epochs instead of a "
        "hundred; larger learning rates and a shorter memory of Adam's second moment and of the average.",
        steps=2200,
        train="--resolution 32 --batch-size 32 --set width=8 --set latent_dim=32 --set warmup_epochs=1.5 "
        "--set generator_lr=4e-4 --set discriminator_lr=8e-4 --set betas=[0.0,0.99] --set ema_decay=0.997 "
        "--set ema_start=100",
        factor=10,
        sample=BY_CLASS,
    ),
}

"""The gallery's runs: minutes on one CPU core, so narrow networks, large learning rates and short schedules."""

from dataclasses import dataclass

__all__ = ["RECIPES", "Recipe"]


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
        "Perceptrons with batch normalisation in the generator (`architecture=batch-norm`), with a moving average.",
        steps=4000,
        train="--resolution 28 --batch-size 64 --set architecture=batch-norm --set ema_decay=0.999",
        factor=2,
    ),
    "dcgan": Recipe(
        "DCGAN",
        "A quarter of the usual width, a moving average, and more than twice the paper's learning rates.",
        steps=2700,
        train="--resolution 32 --batch-size 64 --set width=16 --set ema_decay=0.995 --set generator_lr=5e-4 "
        "--set discriminator_lr=5e-4",
        factor=2,
    ),
    "cgan": Recipe(
        "cGAN",
        "DCGAN's small networks for 28 px at half the width, the label beside the image (`conditioning=concat`).",
        steps=1500,
        train="--resolution 28 --batch-size 64 --set architecture=convolutional --set width=32 --set ema_decay=0.995 "
        "--set generator_lr=5e-4 --set discriminator_lr=5e-4",
        factor=2,
        sample="--classes each --columns 10 --num 100",
    ),
    "gan-cls": Recipe(
        "GAN-CLS",
        "Text to image: captions that name the classes, embedded by fixed word vectors.",
        steps=2000,
        train="--resolution 32 --batch-size 32 --set width=16 --set discriminator_width=16 --set ema_decay=0.995 "
        "--set generator_lr=5e-4 --set discriminator_lr=5e-4",
        factor=2,
        data="captioned:fashion-mnist",
    ),
}

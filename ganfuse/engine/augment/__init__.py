"""Augmentation on the device: functions of images and a random generator, differentiable twice.

What a discriminator sees is augmented alike for real and for generated images, and the generator's gradient goes
through it; a gradient penalty (R1) is taken with respect to the images before it.
"""

from ganfuse.engine.augment.adaptive import AdaptiveAugment
from ganfuse.engine.augment.crop import random_crop, random_resized_crop
from ganfuse.engine.augment.diffaugment import diff_augment
from ganfuse.engine.augment.flip import horizontal_flip
from ganfuse.engine.augment.pipeline import PIPELINES, augment

__all__ = [
    "PIPELINES",
    "AdaptiveAugment",
    "augment",
    "diff_augment",
    "horizontal_flip",
    "random_crop",
    "random_resized_crop",
]

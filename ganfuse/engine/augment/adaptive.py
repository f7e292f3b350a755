"""Adaptive discriminator augmentation: the pipeline with a probability that a measure of overfitting controls.

Karras et al., "Training Generative Adversarial Networks with Limited Data", 2020, section 3. When the discriminator
overfits, its outputs for the training images drift towards one side; r_t = E[sign(D(x))] over real images, of eq. 1,
tells how far: 0 is no overfitting, 1 is complete.
"""

import torch
from torch import Tensor, nn

from ganfuse.engine.augment.checks import check_probability
from ganfuse.engine.augment.pipeline import augment, check_pipeline
from ganfuse.engine.layers.process_group import InProcessGroup
from ganfuse.engine.noise import Noise


class AdaptiveAugment(InProcessGroup, nn.Module):
    """Augments images with probability ``p``, and moves ``p`` so that r_t stays at a target.

    Call it on whatever the discriminator sees; give the discriminator's outputs for real images to `observe` and call
    `adjust` once a step. All of its state is in the state dict, and nothing waits for the device.

    Args:
        pipeline: see `augment`; "bgc" is the paper's choice.
        p: at the beginning.
        target: of r_t; 0.6 in the paper (section 3.1).
        interval: steps between adjustments; 4 in the paper.
        kimg: thousands of real images in which ``p`` can go from 0 to 1; 500 in the paper, 100 for continued runs.
        max_p: ``p`` stays below. The original sets no limit, and runs were seen with p = 34, where it means nothing.
        process_group: over whose processes r_t is taken; None means this process alone. May be set later.

    Attributes:
        p: buffer, the probability.
        r_t: buffer, the measure at the latest adjustment; 0 before the first.

    Raises:
        ValueError: names the argument, what came and what was expected.
    """

    p: Tensor
    r_t: Tensor
    _signs: Tensor
    _outputs: Tensor
    _steps: Tensor
    _images: Tensor

    def __init__(
        self,
        pipeline: str = "bgc",
        *,
        p: float = 0.0,
        target: float = 0.6,
        interval: int = 4,
        kimg: float = 500.0,
        max_p: float = 1.0,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        check_pipeline(pipeline)
        check_probability("max_p", max_p)
        if not 0.0 <= p <= max_p:
            raise ValueError(f"p: expected a probability from 0 to max_p = {max_p}, got {p!r}")
        if not -1.0 <= target <= 1.0:
            raise ValueError(f"target: expected a number from -1 to 1, got {target!r}")
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ValueError(f"interval: expected a whole number of at least 1, got {interval!r}")
        if not kimg > 0:
            raise ValueError(f"kimg: expected thousands of images above 0, got {kimg!r}")
        self.pipeline = pipeline
        self.target, self.interval, self.kimg, self.max_p = target, interval, kimg, max_p
        self.process_group = process_group
        for name, value in (("p", p), ("r_t", 0.0)):
            self.register_buffer(name, torch.tensor(value))
        # Exact counts, whatever the precision of the module: a run of millions of images adds them up.
        for name in ("_signs", "_outputs", "_steps", "_images"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor, generator: torch.Generator | Noise | None = None) -> Tensor:
        """`augment` with the present ``p``.

        Args:
            images: floating point ``(B, C, H, W)`` in [-1, 1].
            generator: of the random numbers, see `Draws`.
        """
        return augment(images, self.p, pipeline=self.pipeline, generator=generator)

    @torch.no_grad()
    def observe(self, real_outputs: Tensor) -> None:
        """Takes note of the discriminator's outputs (logits, of any shape) for real images."""
        self._signs += real_outputs.detach().sign().sum().long()
        self._outputs += real_outputs.numel()

    @torch.no_grad()
    def adjust(self, batch_size: int) -> None:
        """Called once a step with the number of real images in it, over all processes.

        Every ``interval`` steps ``p`` rises if r_t is above the target and falls if it is below, by the images of these
        steps over ``kimg`` thousand. If no output was observed in them, ``p`` stays.
        """
        self._steps += 1
        self._images += batch_size
        due = self._steps % self.interval == 0
        sums = torch.stack([self._signs, self._outputs])
        if self.process_group is not None:
            # In every step and not just when it is due, which only the device knows.
            torch.distributed.all_reduce(sums, group=self.process_group)
        signs, outputs = sums.double()
        r_t = signs / outputs.clamp(min=1)
        move = (r_t - self.target).sign() * self._images / (self.kimg * 1000)
        moved = (self.p.double() + move).clamp(0.0, self.max_p).to(self.p.dtype)
        measured = due & (outputs > 0)
        self.p.copy_(torch.where(measured, moved, self.p))
        self.r_t.copy_(torch.where(measured, r_t.to(self.r_t.dtype), self.r_t))
        for counter in (self._signs, self._outputs, self._images):
            counter.mul_(~due)

    def extra_repr(self) -> str:
        return f"{self.pipeline!r}, target={self.target}, interval={self.interval}, kimg={self.kimg}"

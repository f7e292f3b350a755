"""The two-player game: a generator against a discriminator, from anyone's two networks."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine import regularizers
from ganfuse.engine.augment import AdaptiveAugment, diff_augment
from ganfuse.engine.checks import is_number
from ganfuse.engine.game import Batch, EMATarget, Player, Turn
from ganfuse.engine.latent_game import LatentGame, takes_labels
from ganfuse.engine.layers.minibatch_stddev import compare_within
from ganfuse.engine.layers.spectral_norm import hold_spectral_norms
from ganfuse.engine.losses import AdversarialLoss, adversarial_loss
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.precision import at_least_float32
from ganfuse.engine.replay_pool import ReplayPool
from ganfuse.engine.schedules import Progress, Schedule

__all__ = ["AdversarialGame"]

AUGMENTATIONS = (None, "diffaugment", "ada")


class AdversarialGame(LatentGame):
    """Noise to images: the discriminator moves on real and generated images, then the generator moves.

    Called as `generator(z, labels)` → images (B, C, H, W) in [-1, 1], and `discriminator(images, labels)` → logits
    (B,); a network whose `forward` has no place for labels is called without, and so are both if `num_classes` is None.

    Args:
        generator: z (B, latent_dim) to images.
        discriminator: images to logits.
        loss: a name in `ganfuse.engine.losses.LOSSES`, or an `AdversarialLoss` of one's own.
        latent_dim: size of z, or its shape without the batch, such as (100, 1, 1); None reads `generator.latent_dim`.
        num_classes: number of classes; None for data without labels, or to ignore its labels.
        generator_lr, discriminator_lr: learning rates of Adam. The defaults are those of SAGAN (Zhang et al. 2018,
            section 4: two time-scales, as in Heusel et al. 2017).
        betas, adam_eps: Adam's, for both.
        discriminator_steps: discriminator updates per generator update, each on a fresh batch.
        ema_decay: decay per step of the moving average of the generator that is sampled from; None keeps no average.
        ema_warmup: begin with a smaller decay, see `ganfuse.engine.ema.EMA`.
        latent: "normal", N(0, 1), or "uniform", U(-1, 1).
        concatenate: show the discriminator real and generated images in one batch rather than in two. Faster; not the
            same if it computes statistics over the batch (`MinibatchStdDev` takes its own of each half).
        same_spectral_norms: the discriminator's power iterations step once in its turn, so that it sees real and
            generated images with the same weights (`hold_spectral_norms`). Without effect where `concatenate` is on.
        r1_gamma, r2_gamma: weights of `regularizers.r1_penalty` on real and on generated images; 0: none.
        wgan_gp: weight of `regularizers.wgan_gp_penalty` (Gulrajani et al. 2017: 10); 0: none.
        dragan: weight of `regularizers.dragan_penalty` (Kodali et al. 2017: 10); 0: none.
        penalty_interval: compute these penalties at every so many-th step only, in a turn of their own and so many
            times as strong, with the optimiser adapted (Karras et al. 2020, StyleGAN2, appendix B: 16).
        weight_decay: L2 penalty of both optimisers.
        augment: what is done to real and generated images before the discriminator sees them: None, "diffaugment"
            (Zhao et al. 2020, arXiv 2006.10738), or "ada" (Karras et al. 2020, arXiv 2006.06676), whose probability
            adapts to how far the discriminator overfits; an `AdaptiveAugment` is the same with settings of its own.
        generator_schedule, discriminator_schedule: factors of the learning rates, see `ganfuse.engine.schedules`.
        replay: a pool of earlier images (`labelled` if there are classes), in which the discriminator sees generated
            images, see `ReplayPool`; None: it sees those of the present generator.
        name, config: see `Game`.

    Raises:
        ValueError: names the argument.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: str | AdversarialLoss = "hinge",
        *,
        latent_dim: int | Sequence[int] | None = None,
        num_classes: int | None = None,
        generator_lr: float = 1e-4,
        discriminator_lr: float = 4e-4,
        betas: Sequence[float] = (0.0, 0.9),
        adam_eps: float = 1e-8,
        discriminator_steps: int = 1,
        ema_decay: float | None = 0.999,
        ema_warmup: bool = True,
        latent: str = "normal",
        concatenate: bool = False,
        same_spectral_norms: bool = False,
        r1_gamma: float = 0.0,
        r2_gamma: float = 0.0,
        wgan_gp: float = 0.0,
        dragan: float = 0.0,
        penalty_interval: int = 1,
        weight_decay: float = 0.0,
        augment: str | AdaptiveAugment | None = None,
        replay: ReplayPool | None = None,
        generator_schedule: Schedule | None = None,
        discriminator_schedule: Schedule | None = None,
        name: str = "adversarial",
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(generator, latent_dim=latent_dim, num_classes=num_classes, latent=latent)
        if type(discriminator_steps) is not int or discriminator_steps < 1:
            raise ValueError(f"discriminator_steps: expected a positive whole number, got {discriminator_steps!r}")
        weights = {"r1_gamma": r1_gamma, "r2_gamma": r2_gamma, "wgan_gp": wgan_gp, "dragan": dragan}
        for key, weight in weights.items():
            if not (is_number(weight) and weight >= 0.0):
                raise ValueError(f"{key}: expected a weight of at least 0, got {weight!r}")
        self.penalties = {key.removesuffix("_gamma"): weight for key, weight in weights.items()}
        if not isinstance(penalty_interval, int) or penalty_interval < 1:
            raise ValueError(f"penalty_interval: expected a positive whole number, got {penalty_interval!r}")
        self.penalty_interval = penalty_interval
        if not isinstance(augment, AdaptiveAugment) and augment not in AUGMENTATIONS:
            raise ValueError(f"augment: expected one of {', '.join(map(repr, AUGMENTATIONS))}, got {augment!r}")
        # Its probability is state of the game, and so in the checkpoints.
        self.adaptive_augment = AdaptiveAugment() if augment == "ada" else None
        if isinstance(augment, AdaptiveAugment):
            self.adaptive_augment, augment = augment, "ada"
        self.augmentation = augment
        if not (is_number(adam_eps) and adam_eps >= 0.0):
            raise ValueError(f"adam_eps: expected a number of at least 0, got {adam_eps!r}")
        if not isinstance(betas, Sequence) or len(betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {betas!r}")
        for key, rate in (("generator_lr", generator_lr), ("discriminator_lr", discriminator_lr)):
            if not (is_number(rate) and rate >= 0.0):
                raise ValueError(f"{key}: expected a learning rate of at least 0, got {rate!r}")
        if ema_decay is not None and not (is_number(ema_decay) and 0.0 <= ema_decay < 1.0):
            raise ValueError(f"ema_decay: expected 0 <= decay < 1 or None, got {ema_decay!r}")
        self.name = name
        self.config = config
        self.discriminator = discriminator
        self.loss = loss if isinstance(loss, AdversarialLoss) else adversarial_loss(loss)
        if replay is not None and (replay.labels is None) != (num_classes is None):
            raise ValueError("replay: the pool must be labelled if, and only if, the game has classes")
        self.replay = replay
        self.concatenate = concatenate
        self.same_spectral_norms = same_spectral_norms
        self.discriminator_steps = discriminator_steps
        adam = Adam(generator_lr, (betas[0], betas[1]), adam_eps, weight_decay)
        self._generator_adam, self._discriminator_adam = adam, replace(adam, lr=discriminator_lr)
        self._schedules = {"generator": generator_schedule, "discriminator": discriminator_schedule}
        self._ema_target = None if ema_decay is None else EMATarget("generator", ema_decay, ema_warmup)
        self._discriminator_takes_labels = takes_labels(discriminator, "discriminator", num_classes)
        if num_classes is not None and not (self.generator_takes_labels or self._discriminator_takes_labels):
            raise ValueError(
                f"num_classes: got {num_classes}, but neither network's forward has a second argument for labels"
            )

    @property
    def judges_images(self) -> bool:
        """Whether `discriminate` is all that there is to the discriminator's judgement, and can be asked by others."""
        return True

    def players(self) -> Sequence[Player]:
        adam = self._discriminator_adam.lazy(self.penalty_interval) if self._lazy else self._discriminator_adam
        return (
            Player("discriminator", ("discriminator",), adam, self._schedules["discriminator"]),
            Player("generator", ("generator",), self._generator_adam, self._schedules["generator"]),
        )

    def turns(self) -> Sequence[Turn]:
        penalised = any(self.penalties.values())
        turns = [
            Turn(
                "discriminator",
                self.discriminator_loss,
                repeats=self.discriminator_steps,
                second_order=penalised and not self._lazy,
                # What the pool holds decides what it gives back.
                capturable=self.replay is None,
            ),
            Turn("generator", self.generator_loss),
        ]
        if self._lazy:
            lazy = Turn(
                "discriminator", self.penalty_loss, every=self.penalty_interval, name="penalty", second_order=True
            )
            turns.insert(1, lazy)
        return turns

    @property
    def _lazy(self) -> bool:
        return self.penalty_interval > 1 and any(self.penalties.values())

    def ema_targets(self) -> Sequence[EMATarget]:
        return () if self._ema_target is None else (self._ema_target,)

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The discriminator's turn. Generated images are constants; their labels are independent of the real ones."""
        fakes, fake_labels = self.fakes_to_judge(batch, noise)
        real_labels = None if fake_labels is None else self._real_labels(batch)
        if self.concatenate:
            labels = None if real_labels is None or fake_labels is None else torch.cat([real_labels, fake_labels])
            real, fake = self.augmented(batch.images, noise), self.augmented(fakes, noise)
            with compare_within(self.discriminator, 2):
                logits = self.discriminate(torch.cat([real, fake.to(real.dtype)]), labels)
            real_logits, fake_logits = logits.chunk(2)
        else:
            with hold_spectral_norms(self.discriminator) if self.same_spectral_norms else nullcontext():
                real_logits = self.discriminate(self.augmented(batch.images, noise), real_labels)
                fake_logits = self.discriminate(self.augmented(fakes, noise), fake_labels)
        if self.adaptive_augment is not None:
            self.adaptive_augment.observe(real_logits)
        values = {
            "loss": self.loss.discriminator(real_logits, fake_logits),
            "real_logits": at_least_float32(real_logits.detach()).mean(),
            "fake_logits": at_least_float32(fake_logits.detach()).mean(),
        }
        return self.with_penalties(values, batch, fakes, fake_labels, noise)

    def with_penalties(
        self, values: dict[str, Tensor], batch: Batch, fakes: Tensor, fake_labels: Tensor | None, noise: Noise
    ) -> dict[str, Tensor]:
        """The values of the discriminator's turn and the gradient penalties, unless those have a turn of their own.

        Where augmentation adapts, its probability and what it follows are logged, too.
        """
        if self.adaptive_augment is not None:
            # Copies: the next step changes them before they are logged.
            values = {
                **values,
                "augment_p": self.adaptive_augment.p.clone(),
                "augment_r_t": self.adaptive_augment.r_t.clone(),
            }
        if not any(self.penalties.values()) or self._lazy:
            return values
        real_labels = None if fake_labels is None else self._real_labels(batch)
        penalties = self._penalties(batch.images, real_labels, fakes, fake_labels, noise)
        logged = {key: value.detach() for key, value in penalties.items()}
        return {**values, "loss": values["loss"] + sum(penalties.values()), **logged}

    def fakes_to_judge(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor | None]:
        """What the discriminator's turn takes for generated images, as many as real ones, without gradients."""
        with torch.no_grad():
            fake_labels = self.draw_labels(len(batch), noise)
            fakes = self.draw_images(len(batch), fake_labels, noise)
        if fakes.shape != batch.images.shape:
            raise ValueError(
                f"generator: its images have shape {tuple(fakes.shape)}, those of the data {tuple(batch.images.shape)}"
            )
        if self.replay is None:
            return fakes, fake_labels
        if fake_labels is None:
            return self.replay.exchange(fakes, noise), None
        return self.replay.exchange_labelled(fakes, fake_labels, noise)

    def penalty_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The gradient penalties alone, times `penalty_interval`: the turn that is played at every so many-th step."""
        with torch.no_grad():
            fake_labels = self.draw_labels(len(batch), noise)
            needed = any(weight for key, weight in self.penalties.items() if key in ("r2", "wgan_gp"))
            fakes = self.draw_images(len(batch), fake_labels, noise) if needed else batch.images
        real_labels = None if fake_labels is None else self._real_labels(batch)
        penalties = self._penalties(batch.images, real_labels, fakes, fake_labels, noise)
        values = {key: value.detach() for key, value in penalties.items()}
        return {"loss": torch.stack(list(penalties.values())).sum() * self.penalty_interval, **values}

    def _penalties(
        self, real: Tensor, real_labels: Tensor | None, fake: Tensor, fake_labels: Tensor | None, noise: Noise
    ) -> dict[str, Tensor]:
        """The penalties that have a weight, times it."""
        weights = {key: weight for key, weight in self.penalties.items() if weight}
        found: dict[str, Tensor] = {}
        for key, images, labels in (("r1", real, real_labels), ("r2", fake, fake_labels)):
            if key in weights:
                leaf = images.detach().requires_grad_()
                scores = self.discriminate(self.augmented(leaf, noise), labels)
                found[key] = weights[key] * regularizers.r1_penalty(scores, leaf)
        if "wgan_gp" in weights or "dragan" in weights:
            mix = noise.uniform(len(real), 1, 1, 1, dtype=real.dtype).to(real.device)

            def judge(images: Tensor) -> Tensor:
                return self.discriminate(self.augmented(images, noise), real_labels)

            if "wgan_gp" in weights:
                found["wgan_gp"] = weights["wgan_gp"] * regularizers.wgan_gp_penalty(judge, real, fake, mix)
            if "dragan" in weights:
                uniform = noise.uniform(*real.shape, dtype=real.dtype).to(real.device)
                found["dragan"] = weights["dragan"] * regularizers.dragan_penalty(judge, real, uniform, mix)
        return found

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The generator's turn, on as many images as the batch has."""
        labels = self.draw_labels(len(batch), noise)
        fakes = self.draw_images(len(batch), labels, noise)
        fake_logits = self.discriminate(self.augmented(fakes, noise), labels)
        return {"loss": self.generators_loss(fake_logits, batch, labels, noise)}

    def generators_loss(self, fake_logits: Tensor, batch: Batch, labels: Tensor | None, noise: Noise) -> Tensor:
        """The loss of these logits; one that is relativistic compares them with those of the real images."""
        if not self.loss.relativistic:
            return self.loss.generator(fake_logits)
        with torch.no_grad():
            real = self.augmented(batch.images, noise)
            real_logits = self.discriminate(real, None if labels is None else self._real_labels(batch))
        return self.loss.generator(fake_logits, real_logits)

    def before_step(self, progress: Progress) -> None:
        if self.adaptive_augment is not None and progress.step > 1:
            self.adaptive_augment.adjust(progress.batch_size)

    def augmented(self, images: Tensor, noise: Noise) -> Tensor:
        """What the discriminator sees of images."""
        if self.adaptive_augment is not None:
            return self.adaptive_augment(images, noise)  # type: ignore[no-any-return]
        return diff_augment(images, generator=noise) if self.augmentation == "diffaugment" else images

    def at_present_size(self, images: Tensor, *, real: bool) -> Tensor:
        """Images of full size as the discriminator judges them at present: as they are, unless the networks grow.

        Args:
            images: (B, C, H, W), those of the data, or what `sample` draws.
            real: whether they are of the data.
        """
        return images

    def discriminate(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Logits of images, with the labels if the discriminator takes them."""
        takes = (labels,) if self._discriminator_takes_labels else ()
        logits: Tensor = self.discriminator(images, *takes, **self.discriminator_options())
        return logits

    def discriminator_options(self) -> dict[str, Any]:
        """Likewise the discriminator."""
        return {}

    def _real_labels(self, batch: Batch) -> Tensor:
        if batch.labels is None:
            raise ValueError(f"num_classes: the game has {self.num_classes} classes, but the data has no labels")
        return batch.labels

"""GAN-CLS and GAN-INT-CLS: Generative Adversarial Text to Image Synthesis (Reed et al. 2016, arXiv 1605.05396).

The text arrives as an embedding, of whatever encoder (the paper's: 1024 numbers, the mean of four captions). The
discriminator must reject real images that go with another text (GAN-CLS, algorithm 1); the generator may also be
trained on texts halfway between two (GAN-INT, equation 5), which the discriminator is never trained on.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.augment import random_crop
from ganfuse.engine.data.embedded import choose_captions, mismatching
from ganfuse.engine.game import Batch, evaluation_mode
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import at_least_float32
from ganfuse.engine.schedules import StepDecay
from ganfuse.models.checks import check_choice, check_length, check_positive, check_range, check_resolution
from ganfuse.models.gan_cls_networks import Discriminator, Generator
from ganfuse.models.registry import register_model

RESOLUTIONS = (32, 64, 128)
MISMATCHES = ("image", "text")
#: How many embeddings of its data the game keeps, to draw samples for.
KNOWN_TEXTS = 64


class TextToImageGame(AdversarialGame):
    """Matching-aware discriminator against a generator of images from latents and text embeddings.

    Args:
        generator, discriminator: see `ganfuse.models.gan_cls_networks`.
        mismatch: "image": a text is shown with a real image of another class, as in the authors' code; "text": a real
            image with the text of another, as in the paper's words.
        mismatch_weight: share w of the mismatching pairs among those to reject.
        interpolation_weight: of interpolated texts in the generator's loss; 0: none.
        captions: how many captions of an image are averaged, at most all it has.
        load_size: see `gan_cls`.
        **options: see `AdversarialGame`.

    Attributes:
        known_texts: embeddings of the data, (KNOWN_TEXTS, embedding_dim), of each class in turn; `num_known` are there.
    """

    data_kind = "embedded"
    generator: Generator
    discriminator: Discriminator
    known_texts: Tensor
    num_known: Tensor
    known_classes: Tensor

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        mismatch: str,
        mismatch_weight: float,
        interpolation_weight: float,
        captions: int,
        load_size: int,
        **options: Any,
    ) -> None:
        super().__init__(generator, discriminator, "non-saturating", **options)
        self.mismatch = mismatch
        self.mismatch_weight = mismatch_weight
        self.interpolation_weight = interpolation_weight
        self.captions = captions
        self.load_size = load_size
        self.register_buffer("known_texts", torch.zeros(KNOWN_TEXTS, generator.embedding_dim))
        self.register_buffer("num_known", torch.zeros((), dtype=torch.int64))
        self.register_buffer("known_classes", torch.zeros((), dtype=torch.int64))

    def check_data(self, data: Any) -> None:
        """Refuses data without embeddings of the right length, and keeps some of them to draw samples for."""
        features, expected = getattr(data, "features", None), self.generator.embedding_dim
        if features is None:
            raise ValueError("data: images with embeddings of their captions are needed, such as captioned:digits")
        if features != expected:
            raise ValueError(
                f"embedding_dim: the data's embeddings have {features} numbers, the game was made for {expected}"
            )
        chosen = _classes_in_turn(data.labels, KNOWN_TEXTS)
        texts = self.texts_of(data, chosen)
        self.known_texts[: len(texts)] = texts.to(self.known_texts)
        self.num_known.fill_(len(texts))
        self.known_classes.fill_(len(torch.unique(data.labels)))

    def texts_of(self, data: Any, places: Sequence[int]) -> Tensor:
        """A text of each of these images of a data set, the mean of its first captions: (N, embedding_dim)."""
        read = getattr(data, "embedding", None) or (lambda index: data[index]["embedding"])
        return torch.stack([read(index)[: self.captions].mean(0) for index in places])

    @property
    def texts(self) -> Tensor:
        """The embeddings that the game keeps of its data, (N, embedding_dim); N is 0 before it has met them."""
        return self.known_texts[: int(self.num_known)]

    @property
    def judges_images(self) -> bool:
        return False

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """BCE(D(x, t), 1) + w BCE(D(mismatch), 0) + (1 − w) BCE(D(G(z, t), t), 0): algorithm 1, w = ½.

        Each kind of pair is a batch of its own to the discriminator's batch normalisation.
        """
        if len(batch) < 2:
            raise ValueError(
                "batch_size: a text is also shown with the image of another, so each micro-batch of each process needs "
                f"at least 2 images, got {len(batch)}"
            )
        text = self.draw_text(batch, noise)
        with torch.no_grad():
            fakes = self.generator(self.draw_latents(len(batch), noise), text)
        images = self.cropped(batch.images, noise)
        labels = torch.arange(len(batch), device=text.device) if batch.labels is None else batch.labels
        other = mismatching(labels, generator=noise)
        wrong = (images[other], text) if self.mismatch == "image" else (images, text[other])
        real_logits = at_least_float32(self.discriminator(images, text))
        wrong_logits = at_least_float32(self.discriminator(*wrong))
        fake_logits = at_least_float32(self.discriminator(fakes, text))
        w = self.mismatch_weight
        rejected = w * F.softplus(wrong_logits).mean() + (1.0 - w) * F.softplus(fake_logits).mean()
        return {
            "loss": F.softplus(-real_logits).mean() + rejected,
            "real_logits": real_logits.detach().mean(),
            "wrong_logits": wrong_logits.detach().mean(),
            "fake_logits": fake_logits.detach().mean(),
        }

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """BCE(D(G(z, t), t), 1), over the texts and, with their weight, over the means of neighbours in the batch."""
        text = self.draw_text(batch, noise)
        z = self.draw_latents(len(batch), noise)
        weights = torch.ones(len(batch), device=text.device)
        # Neighbours, rather than the batch's halves: those that meet in the whole batch also meet in a share of it.
        pairs = len(batch) // 2 if self.interpolation_weight else 0
        if pairs:
            between = 0.5 * (text[0 : 2 * pairs : 2] + text[1 : 2 * pairs : 2])
            text = torch.cat([text, between])
            z = torch.cat([z, self.draw_latents(pairs, noise)])
            weights = torch.cat([weights, weights.new_full((pairs,), self.interpolation_weight)])
        logits = at_least_float32(self.discriminator(self.generator(z, text), text))
        return {"loss": (weights * F.softplus(-logits)).mean()}

    def draw_text(self, batch: Batch, noise: Noise) -> Tensor:
        """The mean of some captions of each image, (B, embedding_dim)."""
        if batch.embeddings is None:
            raise ValueError("embeddings: the batch has none; images with embeddings of their captions are needed")
        embeddings = batch.embeddings if batch.embeddings.ndim == 3 else batch.embeddings[:, None]
        return choose_captions(embeddings, count=min(self.captions, embeddings.shape[1]), generator=noise)

    def cropped(self, images: Tensor, noise: Noise) -> Tensor:
        """A random part of each image, of the networks' size."""
        size, given = self.discriminator.resolution, images.shape[-1]
        if given not in (size, self.load_size):
            raise ValueError(f"images: expected {size} px, or load_size={self.load_size} px, got {given}")
        if self.load_size == size:
            return images
        if given == size:
            images = F.interpolate(images, size=(self.load_size,) * 2, mode="bilinear", align_corners=False)
        return random_crop(images, size, generator=noise)

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | Sequence[int] | int | None = None,
        rng: torch.Generator | None = None,
        batch_size: int | None = None,
        embeddings: Tensor | None = None,
    ) -> Tensor:
        """See `Game.sample`.

        Args:
            n, rng: see there.
            labels: there are none; None.
            batch_size: bounds the memory; the samples do not depend on it.
            embeddings: of the texts, (n, embedding_dim), or (embedding_dim,) for one text. None: drawn from those of
                the data that the game keeps; before it has met its data, from N(0, 1).

        Raises:
            ValueError: names the argument.
        """
        if n < 1:
            raise ValueError(f"n: expected a positive number of images, got {n}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number or None, got {batch_size}")
        if labels is not None:
            raise ValueError("labels: this game draws images of texts, not of classes; give embeddings")
        noise = Noise(rng)
        text = self._texts(n, embeddings, noise)
        latents = self.draw_latents(n, noise)
        size = batch_size or n
        with evaluation_mode(self.generator):
            parts = [self.generator(latents[i : i + size], text[i : i + size]) for i in range(0, n, size)]
        return torch.cat(parts)

    def preview(self, n: int, *, rng: torch.Generator) -> tuple[Tensor, int | None]:
        """Texts of the data; where the classes fill a row, a column for each, of one of its texts."""
        known, classes = int(self.num_known), int(self.known_classes)
        if known == 0:
            return self.sample(n, rng=rng), None
        columns = classes if 1 < classes <= min(n, known) else None
        n -= n % (columns or 1)
        # The first of the texts are of one class each, and what a column shows apart from its text is the noise's.
        rows = torch.arange(n, device=self.known_texts.device) % (columns or known)
        return self.sample(n, rng=rng, embeddings=self.known_texts[rows]), columns

    def _texts(self, n: int, embeddings: Tensor | None, noise: Noise) -> Tensor:
        length, like = self.generator.embedding_dim, self.generator.text.weight
        # Drawn in any case, so that the same generator gives the same latents.
        places = noise.integers(max(1, int(self.num_known)), n).to(like.device)
        if embeddings is None:
            return self.known_texts[places].to(like) if self.num_known else noise.normal(n, length).to(like)
        given = embeddings.expand(n, -1) if embeddings.ndim == 1 else embeddings
        if given.shape != (n, length):
            raise ValueError(f"embeddings: expected ({n}, {length}) or ({length},), got {tuple(embeddings.shape)}")
        return given.to(like)


def _classes_in_turn(labels: Tensor, count: int) -> list[int]:
    """Places of the first image of each class, then of the second of each, and so on; those that are there."""
    by_class = [torch.nonzero(labels == label)[:, 0].tolist() for label in torch.unique(labels)]
    rounds = range(max(map(len, by_class)))
    return [places[turn] for turn in rounds for places in by_class if turn < len(places)][:count]


@register_model(
    summary="text to image: matching-aware discriminator, interpolated texts (GAN-INT-CLS)",
    paper="Generative Adversarial Text to Image Synthesis",
    arxiv="1605.05396",
    resolutions=RESOLUTIONS,
    data_kind="embedded",
)
def gan_cls(
    *,
    resolution: int = 64,
    channels: int = 3,
    embedding_dim: int = 1024,
    text_features: int | None = None,
    width: int = 128,
    discriminator_width: int = 64,
    latent_dim: int = 100,
    mismatch: str = "image",
    mismatch_weight: float = 0.5,
    interpolation_weight: float = 0.0,
    captions: int = 4,
    load_size: int | None = None,
    generator_lr: float = 2e-4,
    discriminator_lr: float = 2e-4,
    betas: Sequence[float] = (0.5, 0.999),
    lr_halving_epochs: float = 100.0,
    ema_decay: float | None = None,
) -> TextToImageGame:
    """GAN-CLS with the recipe of section 5 and its code: Adam, 2e-4, β₁ = 0.5, halved every 100 epochs, of 600.

    Args:
        resolution: 32, 64 (the paper's) or 128.
        channels: of the images.
        embedding_dim: length of a text's embedding.
        text_features: to which both players project it; None: an eighth of its length, the paper's 128 of 1024. With
            many features of a short embedding the text soon outweighs the latents, and each has one picture.
        width, discriminator_width: channels at half the resolution.
        latent_dim: size of z ~ N(0, 1).
        mismatch: "image" or "text", see `TextToImageGame`.
        mismatch_weight: share of the mismatching pairs among what the discriminator must reject; 0: plain conditional.
        interpolation_weight: 1 is GAN-INT-CLS, 0 GAN-CLS.
        captions: how many captions of an image are averaged, at most all that it has.
        load_size: images are enlarged to this side in pixels, and a random part of `resolution` is taken. None: 76/64
            of the resolution, the paper's ratio. The resolution itself: the images as they are. Images that are of this
            size already are not enlarged. (Mirroring, the paper's other augmentation, is the trainer's option `flip`.)
        generator_lr, discriminator_lr, betas: of Adam.
        lr_halving_epochs: 100; on COCO the paper's code has 40.
        ema_decay: of a moving average of the generator, which the paper does not have; None: none.

    Raises:
        ValueError: names the argument.
    """
    check_resolution("GAN-CLS", resolution, RESOLUTIONS)
    check_choice("mismatch", mismatch, MISMATCHES)
    check_range(0.0, 1.0, mismatch_weight=mismatch_weight)
    check_range(0.0, float("inf"), interpolation_weight=interpolation_weight)
    size = round(resolution * 76 / 64) if load_size is None else load_size
    check_positive(channels=channels, embedding_dim=embedding_dim)
    text_features = max(1, embedding_dim // 8) if text_features is None else text_features
    check_positive(text_features=text_features, width=width)
    check_length(lr_halving_epochs=lr_halving_epochs)
    check_positive(discriminator_width=discriminator_width, latent_dim=latent_dim, captions=captions, load_size=size)
    if size < resolution:
        raise ValueError(f"load_size: expected at least the resolution, {resolution}, got {size}")
    shape = {"resolution": resolution, "channels": channels}
    text = {"embedding_dim": embedding_dim, "text_features": text_features}
    halving = StepDecay(lr_halving_epochs, 0.5, "epochs")
    return TextToImageGame(
        Generator(width=width, latent_dim=latent_dim, **shape, **text),
        Discriminator(width=discriminator_width, **shape, **text),
        mismatch=mismatch,
        mismatch_weight=mismatch_weight,
        interpolation_weight=interpolation_weight,
        captions=captions,
        load_size=size,
        latent_dim=latent_dim,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        generator_schedule=halving,
        discriminator_schedule=halving,
        ema_decay=ema_decay,
    )

"""cGAN: Conditional Generative Adversarial Nets (Mirza & Osindero 2014, arXiv 1411.1784), conditioned in three ways.

``conditioning="concat"`` is the paper's: the discriminator gets the label beside the image. ``"projection"`` adds the
inner product of the label's embedding and the features to the logit (Miyato & Koyama 2018, arXiv 1802.05637).
``"acgan"`` shows the discriminator no label, but has it classify the image (Odena et al. 2017, arXiv 1610.09585).
The generator gets the label's embedding beside z in all three.

Networks are fully connected as in the paper (in a later form: its maxout units and its sizes are those of 2014), or
DCGAN's. With both, and 28 px, 1 channel and 10 classes, the players have 1,511,412 and 932,965 (fully connected), and
903,141 and 228,965 parameters (convolutional), if conditioned by concatenation.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.game import Batch
from ganfuse.engine.layers import MinibatchDiscrimination
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import at_least_float32
from ganfuse.models.checks import check_choice, check_classes, check_count, check_labels, check_latents, check_positive
from ganfuse.models.dcgan import conv_networks
from ganfuse.models.feature_discriminator import Features
from ganfuse.models.gan import replay_pool
from ganfuse.models.initialization import normal_weights
from ganfuse.models.mlp_networks import MLPFeatures, MLPGenerator
from ganfuse.models.registry import register_model

CONDITIONINGS = ("concat", "projection", "acgan")
ARCHITECTURES = ("mlp", "convolutional")


class ConditionalGenerator(nn.Module):
    """z (B, latent_dim) and labels (B,) to images, by a generator of images from z and the label's embedding.

    Args:
        body: whose z has `num_classes` coordinates more.
        num_classes: also the length of the embedding.
        latent_dim: size of z.
    """

    def __init__(self, body: nn.Module, *, num_classes: int, latent_dim: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        self.embedding = nn.Embedding(num_classes, num_classes)
        self.body = body

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        check_latents(z, self.latent_dim)
        check_labels(labels, z.shape[0], self.num_classes)
        images: Tensor = self.body(torch.cat([z, self.embedding(labels).to(z.dtype)], dim=1))
        return images


class ConditionalDiscriminator(nn.Module):
    """Images and labels (B,) to logits (B,).

    Args:
        features: of the images; if conditioned by concatenation, with a condition of `num_classes` numbers.
        num_classes: how many.
        conditioning: "concat", "projection" or "acgan".
        minibatch_kernels: features of minibatch discrimination that are appended; 0: none.
    """

    def __init__(self, features: Features, *, num_classes: int, conditioning: str, minibatch_kernels: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conditioning = conditioning
        self.features = features
        count = features.out_features
        self.minibatch = MinibatchDiscrimination(count, minibatch_kernels) if minibatch_kernels else None
        self.output = nn.Linear(count + minibatch_kernels, 1)
        self.classifier = nn.Linear(count + minibatch_kernels, num_classes) if conditioning == "acgan" else None
        sizes = {"concat": num_classes, "projection": count + minibatch_kernels}
        self.embedding = nn.Embedding(num_classes, sizes[conditioning]) if conditioning in sizes else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        check_labels(labels, len(images), self.num_classes)
        h = self._features(images, labels)
        logits: Tensor = self.output(h).squeeze(1)
        if self.embedding is not None and self.conditioning == "projection":
            logits = logits + (self.embedding(labels) * h).sum(1)
        return logits

    def judge(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B,), and those of the classes (B, num_classes).

        Raises:
            ValueError: the discriminator has no auxiliary classifier.
        """
        if self.classifier is None:
            raise ValueError(
                f"conditioning: only 'acgan' has a classifier, this discriminator has {self.conditioning!r}"
            )
        h = self._features(images, None)
        return self.output(h).squeeze(1), self.classifier(h)

    def _features(self, images: Tensor, labels: Tensor | None) -> Tensor:
        shown = self.embedding is not None and self.conditioning == "concat"
        h: Tensor = self.features(images, self.embedding(labels)) if shown else self.features(images)  # type: ignore[misc]
        return h if self.minibatch is None else self.minibatch(h)  # type: ignore[no-any-return]


class ConditionalGame(AdversarialGame):
    """`AdversarialGame` whose generated labels follow the frequencies of the data's.

    The value function is an expectation over p(y) (Mirza & Osindero 2014, equation 2): under classes that are drawn
    alike, a discriminator could tell generated images by their rare labels. So `class_shares` are p(y).
    """

    class_shares: Tensor

    def shares_of_classes(self, counts: Tensor) -> Tensor:
        return counts / counts.sum()

    def draw_labels(self, n: int, noise: Noise) -> Tensor:
        edges = self.class_shares.double().cumsum(0).to(noise.device)
        # A class that never occurs is an interval without length. The clamp is for rounding at the upper end.
        drawn = torch.bucketize(noise.uniform(n, dtype=torch.float64) * edges[-1], edges, right=True)
        return drawn.clamp_(max=len(edges) - 1).to(self.class_shares.device)


class AuxiliaryClassifierGame(ConditionalGame):
    """AC-GAN: L_S tells real from generated images, L_C their classes (Odena et al. 2017, equations 2 and 3).

    The discriminator minimises L_S + L_C, with L_C = −E log p(y | x) − E log p(y | G(z, y)); the generator its own L_S
    and the second half of L_C.
    """

    discriminator: ConditionalDiscriminator

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        fakes, fake_labels = self.fakes_to_judge(batch, noise)
        assert fake_labels is not None
        real_labels = self._real_labels(batch)
        real_logits, real_classes = self.discriminator.judge(self.augmented(batch.images, noise))
        fake_logits, fake_classes = self.discriminator.judge(self.augmented(fakes, noise))
        if self.adaptive_augment is not None:
            self.adaptive_augment.observe(real_logits)
        source = self.loss.discriminator(real_logits, fake_logits)
        of_class = classification_loss(real_classes, real_labels) + classification_loss(fake_classes, fake_labels)
        values = {
            "loss": source + of_class,
            "classification": of_class.detach(),
            "accuracy": (real_classes.detach().argmax(1) == real_labels).to(source.dtype).mean(),
            "real_logits": at_least_float32(real_logits.detach()).mean(),
            "fake_logits": at_least_float32(fake_logits.detach()).mean(),
        }
        return self.with_penalties(values, batch, fakes, fake_labels, noise)

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        labels = self.draw_labels(len(batch), noise)
        fakes = self.generate(self.draw_latents(len(batch), noise), labels)
        logits, classes = self.discriminator.judge(self.augmented(fakes, noise))
        if self.loss.relativistic:
            with torch.no_grad():
                real_logits, _ = self.discriminator.judge(self.augmented(batch.images, noise))
            source = self.loss.generator(logits, real_logits)
        else:
            source = self.loss.generator(logits)
        of_class = classification_loss(classes, labels)
        return {"loss": source + of_class, "classification": of_class.detach()}


def classification_loss(class_logits: Tensor, labels: Tensor) -> Tensor:
    """−E log p(y | x), the classifier's half of L_C."""
    return F.cross_entropy(at_least_float32(class_logits), labels)


@register_model(
    summary="class-conditional: by concatenation, projection, or an auxiliary classifier",
    paper="Conditional Generative Adversarial Nets",
    arxiv="1411.1784",
)
def cgan(
    *,
    resolution: int = 28,
    num_classes: int = 10,
    channels: int = 1,
    conditioning: str = "concat",
    architecture: str = "mlp",
    width: int | None = None,
    latent_dim: int = 100,
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
) -> ConditionalGame:
    """Conditional GAN with the recipe of DCGAN: Adam, rate 2e-4, β₁ = 0.5, where the paper has SGD with momentum.

    Args:
        resolution: of the images: any for "mlp"; 28, 32, 64 or 128 for "convolutional".
        num_classes: at least 2.
        channels: of the images.
        conditioning: "concat", "projection" or "acgan", see this module.
        architecture: "mlp", hidden layers of `width` · (1, 2, 4, 8) with batch normalisation against three of
            `width` · 4 with dropout; or "convolutional", the networks of `dcgan`.
        width: unit of the widths; None: 128 or 64.
        latent_dim: size of z ~ N(0, 1).
        loss: "non-saturating"; also popular is "least-squares". See `AdversarialGame`.
        generator_lr, discriminator_lr, betas, discriminator_steps, r1_gamma, wgan_gp: see `AdversarialGame`.
        minibatch_kernels: features of minibatch discrimination (Salimans et al. 2016, whose code has 100); 0: none.
        replay: show the discriminator a history of so many generated images (experience replay); 0: the present ones.
        ema_decay: of a moving average of the generator, which the paper does not have; None: none.

    Raises:
        ValueError: names the argument.
    """
    check_choice("conditioning", conditioning, CONDITIONINGS)
    check_choice("architecture", architecture, ARCHITECTURES)
    if check_classes(num_classes) is None:
        raise ValueError(
            f"num_classes: a conditional GAN needs data of at least 2 classes, got {num_classes!r}; without classes "
            "gan and dcgan do"
        )
    width = {"mlp": 128, "convolutional": 64}[architecture] if width is None else width
    check_positive(resolution=resolution, channels=channels, width=width, latent_dim=latent_dim)
    check_count(minibatch_kernels=minibatch_kernels)
    condition = num_classes if conditioning == "concat" else 0
    features: Features
    if architecture == "mlp":
        body: nn.Module = MLPGenerator(
            resolution=resolution,
            channels=channels,
            latent_dim=latent_dim + num_classes,
            widths=[width * factor for factor in (1, 2, 4, 8)],
            activation="leaky_relu",
            batch_norm=True,
        )
        features = MLPFeatures(
            resolution=resolution,
            channels=channels,
            widths=[4 * width] * 3,
            activation="leaky_relu",
            dropout=0.4,
            condition_features=condition,
        )
    else:
        body, features = conv_networks(
            resolution=resolution,
            channels=channels,
            width=width,
            latent_dim=latent_dim + num_classes,
            kernel_size=4,
            condition_features=condition,
        )
    discriminator = ConditionalDiscriminator(
        features, num_classes=num_classes, conditioning=conditioning, minibatch_kernels=minibatch_kernels
    )
    if architecture == "convolutional":
        normal_weights(discriminator)
    game = AuxiliaryClassifierGame if conditioning == "acgan" else ConditionalGame
    return game(
        ConditionalGenerator(body, num_classes=num_classes, latent_dim=latent_dim),
        discriminator,
        loss,
        num_classes=num_classes,
        latent_dim=latent_dim,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        discriminator_steps=discriminator_steps,
        r1_gamma=r1_gamma,
        wgan_gp=wgan_gp,
        replay=replay_pool(replay, channels, resolution, labelled=True),
        ema_decay=ema_decay,
    )

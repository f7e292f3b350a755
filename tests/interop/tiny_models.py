"""A small instance of every registered model, as training leaves one: statistics and vectors have seen some batches."""

import torch

from ganfuse.engine import Game
from ganfuse.engine.translation import TranslationGame
from ganfuse.models import create

_STYLE = {"resolution": 16, "width": 2, "latent_dim": 6, "channel_max": 6, "style_features": 6, "mapping_layers": 2}
CONFIGS = {
    "bigan": {"resolution": 8, "width": 6, "latent_dim": 3},
    "biggan": {
        "resolution": 32, "width": 2, "channels": 1, "latent_dim": 8, "shared_features": 3, "attention_resolution": 16,
        "num_classes": 3,
    },
    "biggan-deep": {
        "resolution": 32, "width": 1, "channels": 1, "latent_dim": 5, "shared_features": 3, "attention_resolution": 16,
        "num_classes": 3,
    },
    "cgan": {"resolution": 28, "architecture": "convolutional", "width": 2, "latent_dim": 5, "num_classes": 3},
    "cogan": {"width": 2, "discriminator_width": 1, "latent_dim": 3},
    "csgan": {"resolution": 24, "width": 2, "channels": 1, "blocks": 1},
    "cyclegan": {"resolution": 24, "width": 2, "channels": 1, "blocks": 1},
    "dcgan": {"resolution": 28, "width": 4, "latent_dim": 6},
    "discogan": {"resolution": 64, "width": 1},
    "dualgan": {"resolution": 32, "width": 2},
    "gan": {"resolution": 8, "width": 6, "latent_dim": 4},
    "gan-cls": {"resolution": 32, "width": 2, "latent_dim": 4, "embedding_dim": 6, "text_features": 3},
    "logan": {"resolution": 32, "width": 1, "latent_dim": 5, "num_classes": 3},
    "progan": {"resolution": 16, "width": 2, "latent_dim": 6, "channel_max": 4},
    "sagan": {"resolution": 32, "width": 2, "latent_dim": 6, "num_classes": 3, "channels": 1},
    "stylegan": {**_STYLE, "num_classes": 3},
    "stylegan2": {**_STYLE, "num_classes": 3},
    "ugatit": {"resolution": 32, "width": 2, "blocks": 1, "light": True},
    "unet-gan": {"resolution": 128, "width": 1, "latent_dim": 6, "num_classes": 3},
    "unit": {"resolution": 64, "width": 1, "blocks": 1, "share_blocks": 1},
}  # fmt: skip


def tiny(name: str, **changes: object) -> Game:
    """The instance, always the same, in evaluation mode, with weights that are not those of its beginning."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        game = create(name, **{**CONFIGS[name], **changes})
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in game.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng), alpha=0.05)
        if not isinstance(game, TranslationGame):
            # Untrained spectral norms divide by next to nothing.
            for _ in range(3):
                _draw(game.train(), rng)
    return game.eval()


def _draw(game, rng: torch.Generator) -> None:
    z = torch.randn(4, *game.latent_shape, generator=rng)
    if game.name == "gan-cls":
        game.generator(z, torch.randn(4, game.generator.embedding_dim, generator=rng))
        return
    game.generate(z, torch.tensor([0, 1, 2, 0]) if game.generator_takes_labels else None)

"""The grids of samples that show how a run comes along."""

from typing import TYPE_CHECKING

from ganfuse.engine.ema import averaged_weights
from ganfuse.engine.game import evaluation_mode
from ganfuse.engine.metrics_log import MetricsLog
from ganfuse.engine.seeding import make_generator

if TYPE_CHECKING:
    from ganfuse.engine.trainer import Trainer

__all__ = ["draw_samples"]


def draw_samples(trainer: "Trainer", log: MetricsLog) -> None:
    """Writes the grid of the same latents as ever, drawn with the averaged weights where there are any."""
    from ganfuse.engine.grid import save_grid

    rng = make_generator(trainer.device, trainer.options.seed, "samples")
    with (
        trainer.global_randomness.aside("samples"),
        averaged_weights(trainer.game, trainer.averages),
        evaluation_mode(trainer.game),
    ):
        images, columns = trainer.game.preview(trainer.options.num_samples, rng=rng)
    save_grid(images.float(), trainer.run.samples / f"step_{trainer.step:06d}.png", columns=columns)
    log.write_images(images.float(), trainer.step)

"""The base of games that translate, with the smallest translator there is."""

import pytest
import torch
import yaml
from torch import nn
from torch.utils.data import Subset

from ganfuse.engine import Trainer
from ganfuse.engine.game import Batch, Turn
from ganfuse.engine.losses import least_squares_discriminator_loss
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import SGD
from ganfuse.engine.progress import _short
from ganfuse.engine.translation import TranslationGame, judged_together, l1
from tests.engine.toys import ToyData
from tests.models.translation_checks import ToyDomains


class Shift(nn.Module):
    """Adds a number; drops pixels while it is trained."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images):
        return self.dropout(images + self.by)


class ShiftGame(TranslationGame):
    name = "shift"
    size_multiple = 2

    def __init__(self, data_kind: str = "unpaired", **options: object) -> None:
        options = {"resolution": 8, "channels": 1, **options}
        super().__init__(generator_optimizer=SGD(0.1), discriminator_optimizer=SGD(0.1), **options)
        self.data_kind = data_kind
        self.generator_ab, self.generator_ba = Shift(0.25), Shift(-0.25)
        self.discriminator_a, self.discriminator_b = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)

    def turns(self):
        return [Turn("discriminators", self.judge), Turn("generators", self.match)]

    def judge(self, batch, noise):
        a, b = self.domains(batch, noise)
        judged = judged_together(self.discriminator_b, b, self.generator_ab(a).detach())
        return {"loss": least_squares_discriminator_loss(*judged)}

    def match(self, batch, noise):
        a, b = self.domains(batch, noise)
        return {"loss": l1(self.generator_ab(a).mean(), b.mean()) + l1(self.generator_ba(b).mean(), a.mean())}


def test_translates_in_evaluation_mode_and_without_gradients():
    game = ShiftGame().train()
    images = torch.zeros(2, 1, 6, 4)
    assert torch.equal(game.translate(images), torch.full_like(images, 0.25))
    assert torch.equal(game.translate(images, "ba"), torch.full_like(images, -0.25))
    assert not game.translate(images).requires_grad
    assert game.generator_ab.training
    with pytest.raises(ValueError, match="direction: expected one of 'ab', 'ba', got 'ac'"):
        game.translate(images, "ac")
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, H, W\), got \(2, 3, 6, 4\)"):
        game.translate(images.expand(2, 3, 6, 4))
    with pytest.raises(ValueError, match=r"images: shift takes images whose sides are multiples of 2 .*, got 5"):
        game.translate(images[..., :5, :])
    with pytest.raises(ValueError, match=r"images: expected floating-point numbers in \[-1, 1\], got torch.uint8"):
        game.translate(images.byte())


def test_rows_of_source_translation_and_cycle():
    game, data = ShiftGame(), ToyDomains(1, 8)
    with pytest.raises(ValueError, match="preview: the game has seen no data yet"):
        game.preview(12, rng=torch.Generator())
    game.check_data(data)
    images, columns = game.preview(13, rng=torch.Generator())
    assert (images.shape, columns) == ((12, 1, 8, 8), 6)
    row = images.view(2, 6, 1, 8, 8)[1]
    first, second = (domain[1][0] / 127.5 - 1 for domain in data.domains)
    for found, source, by in ((row[:3], first, 0.25), (row[3:], second, -0.25)):
        torch.testing.assert_close(found, torch.stack([source, source + by, source]))
    assert game.preview(1, rng=torch.Generator())[0].shape == (6, 1, 8, 8)
    # No more rows than images of the smaller domain.
    assert game.preview(999, rng=torch.Generator())[0].shape == (5 * 6, 1, 8, 8)


def test_data_are_checked():
    game = ShiftGame()
    with pytest.raises(ValueError, match="data: shift needs images of two domains, got 'toy' with one"):
        game.check_data(ToyData())
    with pytest.raises(ValueError, match="data: the game was made for images of 1×8×8, got 1×6×6"):
        game.check_data(ToyDomains(1, 6))
    game.check_data(ToyDomains(1, 8, paired=True))
    paired = ShiftGame("paired")
    paired.check_data(ToyDomains(1, 8, paired=True))
    with pytest.raises(ValueError, match="data: shift compares both images of a pair, and 'toy domains' is not"):
        paired.check_data(ToyDomains(1, 8))
    items = [{"image_a": torch.zeros(1, 8, 8), "image_b": torch.ones(1, 8, 8)}]
    paired.check_data(items)
    with pytest.raises(ValueError, match="images_b"):
        game.domains(Batch(torch.zeros(1, 1, 8, 8)), Noise(torch.Generator()))


def test_pairs_are_cropped_alike_and_others_apart():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    for kind in ("paired", "unpaired"):
        game = ShiftGame(kind, crop=4)
        a, b = game.domains(Batch(image, images_b=-image), Noise(torch.Generator().manual_seed(1)))
        assert a.shape == b.shape == (1, 1, 4, 4)
        assert torch.equal(a, -b) == (kind == "paired")
    game.check_data(ToyDomains(1, 8))
    assert game.preview(6, rng=torch.Generator())[0].shape == (6, 1, 4, 4)
    with pytest.raises(ValueError, match="crop: expected 1 to 8"):
        ShiftGame(crop=9)
    for crop in (4.0, True, "x", 0):
        with pytest.raises(ValueError, match="crop: expected 1 to 8, the side of the data's images, or None, got"):
            ShiftGame(crop=crop)
    for resolution in ("x", 8.0, None):
        with pytest.raises(ValueError, match="resolution: expected a positive whole number, got"):
            ShiftGame(resolution=resolution, crop=4)
    for decay in ("x", 1, -0.1, True):
        with pytest.raises(ValueError, match="ema_decay: expected 0 <= decay < 1 or None, got"):
            ShiftGame(ema_decay=decay)
    with pytest.raises(ValueError, match="crop: shift takes images whose sides are multiples of 2"):
        ShiftGame(crop=3)


def test_the_trainer_opens_data_for_it(tmp_path):
    game = ShiftGame(resolution=16, ema_decay=0.9)
    trainer = Trainer(game, "digits-thick", out=tmp_path, steps=2, batch_size=2, device="cpu", progress=False)
    assert trainer.data.domains[0][0][0].shape == (1, 16, 16)
    trainer.fit()
    assert sorted(trainer.averages) == ["generator_ab", "generator_ba"]


def test_a_run_does_not_go_on_with_another_number_of_images_in_either_domain(tmp_path):
    common = {"out": tmp_path, "batch_size": 2, "device": "cpu", "progress": False, "sample_every": 0}
    Trainer(ShiftGame(), ToyDomains(1, 8), steps=1, **common).fit()
    fewer = ToyDomains(1, 8)
    # The order of the smaller domain would be another.
    fewer.domains = (fewer.domains[0], Subset(fewer.domains[1], range(4)))
    with pytest.raises(ValueError, match=r"data domain_lengths was \[6, 5\], now \[6, 4\]"):
        Trainer(ShiftGame(), fewer, steps=2, resume=True, **common).fit()
    # Runs of before say nothing of it.
    text = (tmp_path / "config.yaml").read_text()
    described = yaml.safe_load(text)
    del described["data"]["domain_lengths"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(described))
    assert Trainer(ShiftGame(), ToyDomains(1, 8), steps=2, resume=True, **common).fit().steps == 2


def test_progress_shows_what_each_player_minimises():
    losses = {"both/loss/judges": 1.0, "both/loss/makers": 2.0, "both/cycle": 3.0, "critic/loss": 4.0, "critic/gp": 5.0}
    assert _short(losses) == "judges 1.000  makers 2.000  critic 4.000"


def test_nothing_is_drawn_from_noise():
    with pytest.raises(ValueError, match=r"sample: shift draws nothing from noise.*ganfuse translate"):
        ShiftGame().sample(4)

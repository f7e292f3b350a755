import pytest
import torch

from ganfuse.engine import Trainer, load_run
from ganfuse.interop import load, load_game, write_run
from tests.interop import biggan_layouts as layouts
from tests.interop.plain_networks import drawn
from tests.interop.small_checkpoints import SMALL
from tests.interop.test_cyclegan_pix2pix import generator_layout
from tests.models.step_checks import ToyImages

SOURCE = "biggan-pytorch"
LABELS = torch.tensor([1, 4])
GENERATOR = layouts.generator(4, classes=5, shared=6, piece=5, attention_after=1)


@pytest.fixture(scope="module")
def generator():
    return drawn(GENERATOR)


@pytest.fixture(scope="module")
def discriminator():
    return drawn(layouts.discriminator(4, classes=5, attention_after=(0,)), seed=1)


def test_a_run_of_both_players_draws_and_judges_as_they_do(tmp_path, generator, discriminator):
    write_run(load_game(SOURCE, generator, also={"discriminator": discriminator}), tmp_path / "run")
    game = load_run(tmp_path / "run")
    assert game.name == "biggan"
    z = torch.randn(2, 20, generator=torch.Generator().manual_seed(1))
    images = game.generator(z, LABELS)
    torch.testing.assert_close(images, load(SOURCE, generator)(z, LABELS))
    torch.testing.assert_close(game.discriminator(images, LABELS), load(SOURCE, discriminator)(images, LABELS))
    with pytest.raises(FileExistsError, match="already holds a run"):
        write_run(game, tmp_path / "run")
    write_run(game, tmp_path / "run", overwrite=True)


def test_training_goes_on_from_imported_weights(tmp_path, generator):
    game = load_game(SOURCE, generator, discriminator_steps=1)
    before = game.generator.output_conv.weight_orig.detach().clone()
    data = ToyImages(3, 32, num_classes=5)
    Trainer(game, data, out=tmp_path / "run", steps=1, batch_size=4, device="cpu", sample_every=0).fit()
    moved = (game.generator.output_conv.weight_orig - before).abs().max()
    assert 0 < moved < 1e-3


def test_translators_of_both_directions():
    there, back = (drawn(generator_layout(4, 2), seed) for seed in (0, 1))
    game = load_game("cyclegan-pix2pix", there, also={"generator_ba": back}, resolution=32)
    x = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(game.generator_ab(x), load("cyclegan-pix2pix", there)(x))
    torch.testing.assert_close(game.generator_ba(x), load("cyclegan-pix2pix", back)(x))
    only_back = load_game("cyclegan-pix2pix", back, place="generator_ba", resolution=32)
    torch.testing.assert_close(only_back.generator_ba(x), game.generator_ba(x))


def test_a_place_is_of_one_network():
    state = SMALL["ugatit-pytorch", "generator"].state()
    file = {"genA2B": state, "genB2A": state}
    with pytest.raises(ValueError, match="place: the file holds several networks, 'genA2B', 'genB2A'"):
        load_game("ugatit-pytorch", file, place="generator_ba")
    assert load_game("ugatit-pytorch", file, "genA2B", place="generator_ba").name == "ugatit"


def test_what_does_not_belong_together(generator):
    other = drawn(layouts.discriminator(4, classes=7, attention_after=(0,)))
    with pytest.raises(ValueError, match="also: discriminator has num_classes=7, the other networks 5"):
        load_game(SOURCE, generator, also={"discriminator": other})
    with pytest.raises(ValueError, match="place: expected one of 'generator', for a Generator"):
        load_game(SOURCE, generator, place="discriminator")
    unusual = drawn(layouts.discriminator(4, classes=5, attention_after=(0, 1)))
    with pytest.raises(ValueError, match=r"of no configuration of biggan; .*load gives the network alone"):
        load_game(SOURCE, unusual)

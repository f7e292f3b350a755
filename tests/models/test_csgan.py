import pytest
import torch

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.models import create
from tests.models.step_checks import assert_same
from tests.models.translation_checks import (
    ToyDomains,
    assert_backends_agree,
    assert_names_what_is_wrong,
    assert_trains_and_resumes,
    count,
    toy_batch,
    unsettle,
)

TINY = {"resolution": 24, "width": 2, "channels": 1, "blocks": 1, "pool_size": 0}


def test_networks_and_recipe():
    with torch.device("meta"):
        game = create("csgan")
    assert (count(game.generator_ab), count(game.discriminator_a)) == (11_378_179, 2_764_737)
    assert (game.lambda_cycle, game.lambda_synthesised, game.lambda_identity) == (10, 30, 0)
    assert game.pool_b.images.shape == (50, 3, 256, 256)


def losses(game, batch: Batch) -> torch.Tensor:
    return game.loss(batch, Noise(torch.Generator().manual_seed(0)))["loss/generators"]


def test_only_what_is_synthesised_follows_the_new_loss():
    """Its gradient is what changes when μ does: that of |Syn − c| with the cycled images as constants c."""
    game = create("csgan", **TINY).double()
    unsettle(game)
    batch = toy_batch(game, 2)
    parameters = [*game.generator_ab.parameters(), *game.generator_ba.parameters()]
    with_mu = torch.autograd.grad(losses(game, batch), parameters)
    game.lambda_synthesised = 0.0
    without = torch.autograd.grad(losses(game, batch), parameters)
    a, b = batch.images, batch.images_b
    with torch.no_grad():
        cycle_a = game.generator_ba(game.generator_ab(a))
        cycle_b = game.generator_ab(game.generator_ba(b))
    synthesised = (game.generator_ba(b) - cycle_a).abs().mean() + (game.generator_ab(a) - cycle_b).abs().mean()
    expected = torch.autograd.grad(30 * synthesised, parameters)
    found = {str(i): x - y for i, (x, y) in enumerate(zip(with_mu, without))}
    assert_same(found, {str(i): gradient for i, gradient in enumerate(expected)})
    # If the cycled images moved too, the gradient would be another.
    moving = (game.generator_ba(b) - game.generator_ba(game.generator_ab(a))).abs().mean()
    moving = moving + (game.generator_ab(a) - game.generator_ab(game.generator_ba(b))).abs().mean()
    other = torch.autograd.grad(30 * moving, parameters)
    assert any((x - y).abs().max() > 1e-3 for x, y in zip(expected, other))


def test_each_translator_runs_twice_a_step():
    """Once on real images and once for the cycle: the authors' code has both again for the new loss."""
    game = create("csgan", **TINY)
    calls = []
    for generator in (game.generator_ab, game.generator_ba):
        generator.register_forward_hook(lambda module, args, y: calls.append(module))
    losses(game.double(), toy_batch(game))
    assert len(calls) == 4


def test_names_what_is_wrong():
    assert_names_what_is_wrong(lambda **more: create("csgan", **{**TINY, **more}), lambda_synthesised=("x",))


def test_needs_pairs():
    game = create("csgan", **TINY)
    game.check_data(ToyDomains(1, 24, paired=True))
    with pytest.raises(ValueError, match=r"data: csgan compares both images of a pair.*kind='paired'"):
        game.check_data(ToyDomains(1, 24))
    with pytest.raises(ValueError, match="lambda_synthesised: expected a number of at least 0, got -1"):
        create("csgan", **TINY, lambda_synthesised=-1)


def test_trains_resumes_and_translates(tmp_path):
    assert_trains_and_resumes(lambda: create("csgan", **TINY), ToyDomains(1, 24, paired=True), tmp_path)


@pytest.mark.interpreter
def test_backends_agree():
    assert_backends_agree(create("csgan", **{**TINY, "resolution": 16, "width": 1, "discriminator_layers": 1}))

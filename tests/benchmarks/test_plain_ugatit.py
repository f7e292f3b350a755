import copy
from dataclasses import replace

import pytest
import torch

from benchmarks.plain_ugatit import PlainUGATIT
from ganfuse.engine.noise import Noise
from ganfuse.models import create
from tests.models.translation_checks import toy_batch, unsettle


@pytest.mark.parametrize("light", [True, False])
def test_plain_form_has_the_same_losses_and_gradients(light):
    torch.manual_seed(0)
    game = create("ugatit", resolution=16, channels=1, width=2, blocks=1, light=light).double().train()
    unsettle(game)
    plain, batch = PlainUGATIT(game), toy_batch(game, 2)
    expected = plain.gradients(batch)
    for turn in game.turns():
        loss = turn.loss(batch, Noise())["loss"]
        torch.testing.assert_close(loss.detach(), expected.pop(turn.name))
        (player,) = (player for player in game.players() if player.name == turn.name)
        for index, gradient in enumerate(torch.autograd.grad(loss, player.parameters(game))):
            wanted = expected.pop(f"{turn.name} {index}")
            scale = max(1.0, wanted.abs().max().item())
            torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9 * scale)
    assert not expected


def test_separate_calls_are_the_same_but_for_the_power_methods():
    game = create("ugatit", resolution=16, channels=1, width=2, blocks=1, light=True).double().eval()
    plain, batch = PlainUGATIT(game), toy_batch(game, 2)
    torch.testing.assert_close(plain.discriminator_loss(batch), plain.discriminator_loss(batch, together=True))


def test_plain_step_moves_everything_and_keeps_rho_in_range():
    game = create("ugatit", resolution=16, channels=1, width=2, blocks=1, light=True).train()
    plain, batch = PlainUGATIT(game), toy_batch(game, 1)
    rhos = [p for name, p in plain.generators.named_parameters() if name.endswith("rho")]
    with torch.no_grad():
        for rho in rhos:
            rho.copy_(torch.linspace(0, 1, rho.numel()).view_as(rho))
    parameters = [*plain.generators.parameters(), *plain.discriminators.parameters()]
    before = copy.deepcopy(parameters)
    plain.step(replace(batch, images=batch.images.float(), images_b=batch.images_b.float()))
    assert all((old != new).any() for old, new in zip(before, parameters, strict=True) if new.numel() > 1)
    assert all(0 <= rho.min() <= rho.max() <= 1 for rho in rhos)

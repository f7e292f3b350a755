import pytest
import torch

from benchmarks.plain_ugatit import PlainUGATIT
from ganfuse.engine.noise import Noise
from ganfuse.models import create
from tests.models.translation_checks import toy_batch, unsettle


@pytest.mark.parametrize("light", [True, False])
def test_plain_form_has_the_same_losses_and_gradients(light):
    torch.manual_seed(0)
    game = create("ugatit", resolution=16, channels=1, width=2, blocks=1, light=light).double()
    unsettle(game)
    # In eval mode the power methods stand still, so that it does not matter how often each network is called.
    game.eval()
    plain, batch = PlainUGATIT(game), toy_batch(game, 2)
    theirs = plain.discriminator_loss(batch.images, batch.images_b), plain.generator_loss(batch.images, batch.images_b)
    moved = plain.discriminators, plain.generators
    for turn, loss, networks in zip(game.turns(), theirs, moved):
        ours = turn.loss(batch, Noise())["loss"]
        torch.testing.assert_close(ours, loss)
        mine = next(player for player in game.players() if player.name == turn.name).parameters(game)
        pairs = zip(
            torch.autograd.grad(ours, mine), torch.autograd.grad(loss, list(networks.parameters())), strict=True
        )
        for one, other in pairs:
            scale = max(1.0, other.abs().max().item())
            torch.testing.assert_close(one, other.reshape(one.shape), rtol=1e-7, atol=1e-9 * scale)


def test_plain_step_moves_everything_and_keeps_rho_in_range():
    game = create("ugatit", resolution=16, channels=1, width=2, blocks=1, light=True).train()
    plain, batch = PlainUGATIT(game), toy_batch(game, 1)
    rhos = [p for name, p in plain.generators.named_parameters() if name.endswith("rho")]
    with torch.no_grad():
        for rho in rhos:
            rho.copy_(torch.linspace(0, 1, rho.numel()).view_as(rho))
    before = [p.clone() for p in (*plain.generators.parameters(), *plain.discriminators.parameters())]
    plain.step(batch.images.float(), batch.images_b.float())
    after = [*plain.generators.parameters(), *plain.discriminators.parameters()]
    assert all((old != new).any() for old, new in zip(before, after, strict=True) if new.numel() > 1)
    assert all(0 <= rho.min() <= rho.max() <= 1 for rho in rhos)

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from ganfuse.engine import AdversarialGame, Trainer
from ganfuse.engine.game import Batch
from ganfuse.engine.layers import spectral_norm, unfuse_spectral_norms
from ganfuse.engine.noise import Noise
from ganfuse.engine.orthogonal import orthogonal_penalty
from ganfuse.engine.singular_values import convolution_singular_values, top_singular_values
from ganfuse.engine.stability import StabilityOptions, install_stability_tools
from ganfuse.engine.weight_matrices import weight_matrices
from tests.engine.toys import SIZE, ToyData


class Discriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(1, 6, 3, stride=2, padding=1))
        self.out = spectral_norm(nn.Linear(6 * (SIZE // 2) ** 2, 1))

    def forward(self, images):
        return self.out(self.conv(images).relu().flatten(1)).squeeze(1)


def make_game() -> AdversarialGame:
    torch.manual_seed(0)
    generator = nn.Sequential(
        nn.Linear(4, 4 * 16), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1), nn.Tanh()
    )
    return AdversarialGame(generator, Discriminator(), latent_dim=4, generator_lr=0.05, discriminator_lr=0.05)


def train(folder, options: StabilityOptions, steps: int = 3) -> tuple[AdversarialGame, dict[str, float]]:
    """The game after some steps with the tools on, and the last line of its metrics."""
    game = make_game()
    Trainer(
        game, ToyData(), out=folder, steps=steps, batch_size=4, device="cpu", progress=False, log_every=1,
        sample_every=0, checkpoint_every=0, **asdict(options),
    ).fit()  # fmt: skip
    return game, json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["losses"]


def test_singular_values_reach_the_metrics(tmp_path):
    """The last line has the values of the last step that was recorded."""
    game, losses = train(tmp_path, StabilityOptions(singular_values_every=2, convolution_singular_values=True))
    names = {f"{player}.{m.name}" for player in ("generator", "discriminator")
             for m in weight_matrices(game.get_submodule(player))}  # fmt: skip
    assert names == {"generator.0", "generator.2", "discriminator.conv", "discriminator.out"}
    logged = {key.split("/")[1] for key in losses if key.startswith("singular_values/")}
    assert logged == names
    found = {key: value for key, value in losses.items() if key.startswith("convolution_singular_values/")}
    assert {key.split("/")[1] for key in found} == {"generator.2", "discriminator.conv"}
    assert all(value > 0 for value in found.values())
    assert not game.generator[2]._forward_pre_hooks


def test_values_of_the_step_that_is_logged(tmp_path):
    _, losses = train(tmp_path, StabilityOptions(singular_values_every=1, convolution_singular_values=True), steps=2)
    again, _ = train(tmp_path / "again", StabilityOptions(), steps=2)
    weight = again.generator[2].weight
    assert losses["singular_values/generator.2/0"] == pytest.approx(
        top_singular_values(weight.transpose(0, 1).flatten(1)).s[0].item(), rel=1e-4
    )
    _, third = train(
        tmp_path / "third", StabilityOptions(singular_values_every=2, convolution_singular_values=True), steps=3
    )
    two, _ = train(tmp_path / "two", StabilityOptions(), steps=2)
    expected = convolution_singular_values(two.discriminator.conv, (SIZE, SIZE))
    for i in range(3):
        key = f"convolution_singular_values/discriminator.conv/{i}"
        assert third[key] == pytest.approx(expected[i].item(), rel=1e-3)


@pytest.mark.parametrize("bound", [{"value": 0.3}, {"ratio": 1.01}])
@pytest.mark.parametrize("players", [None, "generator"])
def test_clamping_follows_every_move(tmp_path, bound, players):
    """Equal to a game that clamps for itself, which decides with the exact decomposition."""
    chosen = ("discriminator", "generator") if players is None else (players,)
    clamped: list[str] = []

    class Clamped(AdversarialGame):
        def after_step(self, player, step):
            if player not in chosen:
                return
            for m in weight_matrices(self.get_submodule(player)):
                u, s, vh = torch.linalg.svd(m.matrix(), full_matrices=False)
                limit = bound["value"] if "value" in bound else bound["ratio"] * s[1] if len(s) > 1 else s[0]
                if s[0] > limit:
                    m.add_((limit - s[0]) * torch.outer(u[:, 0], vh[0]))
                    clamped.append(f"{player}.{m.name}")

    options = {f"clamp_singular_values{'_ratio' if k == 'ratio' else ''}": v for k, v in bound.items()}
    game, _ = train(tmp_path, StabilityOptions(**options, clamp_players=players))
    other = make_game()
    other.__class__ = Clamped
    Trainer(
        other, ToyData(), out=tmp_path / "other", steps=3, batch_size=4, device="cpu", progress=False, sample_every=0
    ).fit()
    assert {name.split(".")[0] for name in clamped} == set(chosen)
    for (name, a), (_, b) in zip(game.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("form", ["off_diagonal", "original"])
def test_orthogonal_regularisation_equals_the_penalty_in_the_loss(tmp_path, form):
    beta = 0.01

    class Penalised(AdversarialGame):
        def generator_loss(self, batch, rng):
            losses = super().generator_loss(batch, rng)
            return {"loss": losses["loss"] + orthogonal_penalty(self.generator, beta, form=form)}

    options = StabilityOptions(orthogonal_beta=beta, orthogonal_form=form, orthogonal_players=["generator"])
    game, _ = train(tmp_path, options)
    plain, _ = train(tmp_path / "plain", StabilityOptions())
    other = make_game()
    other.__class__ = Penalised
    Trainer(
        other, ToyData(), out=tmp_path / "other", steps=3, batch_size=4, device="cpu", progress=False, sample_every=0
    ).fit()
    for (name, a), (_, b), (_, c) in zip(
        game.named_parameters(), other.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        if name == "generator.2.weight":
            assert (a - c).abs().max() > 1e-3


def test_nothing_is_the_default():
    game = make_game()
    optimizers = {player.name: player.optimizer(player.parameters(game)) for player in game.players()}
    assert install_stability_tools(game, optimizers, StabilityOptions()) == ()
    assert not any(o._optimizer_step_pre_hooks or o._optimizer_step_post_hooks for o in optimizers.values())
    everyone = StabilityOptions(clamp_singular_values=1.0, orthogonal_beta=1e-4)
    assert install_stability_tools(game, optimizers, everyone) == ()
    for optimizer in optimizers.values():
        assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"singular_values_every": -1}, "singular_values_every: expected a whole number of at least 0, got -1"),
        ({"singular_values_every": 1.5}, "singular_values_every: expected a whole number"),
        ({"convolution_singular_values": 1}, "convolution_singular_values: expected True or False, got 1"),
        ({"convolution_singular_values": True}, "needs singular_values_every"),
        ({"clamp_singular_values": 0}, "clamp_singular_values: expected a positive number or None, got 0"),
        ({"clamp_singular_values_ratio": "2"}, "clamp_singular_values_ratio: expected a positive number"),
        ({"clamp_singular_values": 1.0, "clamp_singular_values_ratio": 1.0}, "give one of the two"),
        ({"clamp_players": []}, "clamp_players: expected the name of a player"),
        ({"clamp_players": 3}, "clamp_players: expected the name of a player"),
        ({"orthogonal_beta": -1e-4}, "orthogonal_beta: expected a number >= 0"),
        ({"orthogonal_beta": True}, "orthogonal_beta: expected a number >= 0, got True"),
        ({"orthogonal_form": "diagonal"}, "orthogonal_form: expected one of 'off_diagonal', 'original'"),
    ],
)
def test_errors_of_options(options, message):
    with pytest.raises(ValueError, match=message):
        StabilityOptions(**options)


@pytest.mark.parametrize("tool", [{"clamp_singular_values": 1.0}, {"orthogonal_beta": 1.0}])
def test_unknown_player(tool):
    kind = next(iter(tool)).split("_")[0]
    game = make_game()
    options = StabilityOptions(**tool, **{f"{kind}_players": ["critic"]})
    with pytest.raises(ValueError, match=f"{kind}_players: the game's players are discriminator, generator, got 'crit"):
        install_stability_tools(game, {}, options)


@pytest.mark.parametrize("same", [False, True])
def test_one_step_of_the_power_method_in_a_turn(same):
    """Two in the discriminator's turn, of which one is left where real and generated images see the same weights."""
    torch.manual_seed(0)
    game, twin = make_game(), make_game()
    game.same_spectral_norms = same
    batch, noise = Batch(torch.randn(4, 1, SIZE, SIZE)), Noise(torch.Generator().manual_seed(0))
    game.discriminator_loss(batch, noise)["loss"].backward()
    for _ in range(1 if same else 2):
        twin.discriminator(batch.images)
    torch.testing.assert_close(dict(game.discriminator.state_dict()), dict(twin.discriminator.state_dict()))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_training_fuses_the_networks_on_a_gpu(tmp_path, device):
    """On a CPU there is nothing to win."""
    game = make_game()
    state = list(game.state_dict())
    Trainer(game, ToyData(), out=tmp_path, steps=1, batch_size=4, device=device, progress=False).fit()
    if device == "cuda":
        unfuse_spectral_norms(game.discriminator)
    assert list(game.state_dict()) == state
    for network in (game.generator, game.discriminator):
        with pytest.raises(ValueError, match="not fused"):
            unfuse_spectral_norms(network)

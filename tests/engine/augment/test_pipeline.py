"""ADA's pipeline: probabilities, strengths, colours, derivatives; and the controller."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ganfuse.engine.augment import PIPELINES, AdaptiveAugment, augment
from ganfuse.engine.augment import pipeline as pipeline_module
from ganfuse.engine.augment.pipeline import apply_colors, blitting, colors, geometry
from ganfuse.engine.draws import Draws
from ganfuse.engine.noise import Noise, Shard

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(batch: int, seed: int = 0) -> Draws:
    return Draws(torch.empty(batch, 1, 1, 1), generator(seed), F64)


def one(value: float) -> Tensor:
    return torch.tensor(value, dtype=F64)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("channels", [1, 3])
def test_with_probability_0_nothing_changes(pipeline: str, channels: int) -> None:
    images = torch.randn(4, channels, 8, 8)
    assert torch.allclose(augment(images, 0.0, pipeline=pipeline, generator=generator()), images, atol=1e-6)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_with_probability_1_every_image_changes_and_by_itself(pipeline: str) -> None:
    images = torch.randn(1, 3, 12, 12).expand(16, -1, -1, -1)
    result = augment(images, 1.0, pipeline=pipeline, generator=generator())
    assert result.shape == images.shape
    # A blit may leave an image as it is, by drawing no mirroring, no turn and no move.
    assert ((result - images).flatten(1).abs().amax(dim=1) > 1e-3).sum() >= 15
    assert (result[1:] - result[:-1]).flatten(1).abs().amax(dim=1).min() > 1e-3


def test_the_generator_decides_and_p_may_be_a_tensor() -> None:
    images = torch.randn(4, 3, 8, 8)
    first = augment(images, 0.7, generator=generator(3))
    assert torch.equal(first, augment(images, torch.tensor(0.7), generator=generator(3)))
    assert not torch.equal(first, augment(images, 0.7, generator=generator(4)))
    state = torch.get_rng_state()
    augment(images, 0.7, generator=generator())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("pipeline", ["bgc", "c"])
def test_shares_of_a_batch_are_augmented_as_the_whole(pipeline: str) -> None:
    images = torch.randn(6, 3, 8, 8, dtype=F64)
    whole = augment(images, 0.8, pipeline=pipeline, generator=Noise(generator(1)))
    assert torch.equal(whole, augment(images, 0.8, pipeline=pipeline, generator=generator(1)))
    shares = [
        augment(part, 0.8, pipeline=pipeline, generator=Noise(generator(1), Shard(index, 3)))
        for index, part in enumerate(images.chunk(3))
    ]
    assert torch.allclose(torch.cat(shares), whole, atol=1e-12)


@pytest.mark.parametrize("p", [0.25, 0.8])
def test_each_geometric_step_happens_with_probability_p(p: float) -> None:
    maps = geometry(draws(20_000), one(p), 32, 32)
    linear = maps[:, :2, :2]
    determinant = torch.linalg.det(linear)
    scaled = (determinant - 1).abs() > 1e-9
    assert scaled.double().mean().item() == pytest.approx(p, abs=0.015)
    # log2 of the area's factor is normal with twice the deviation 0.2.
    assert determinant[scaled].log2().std().item() == pytest.approx(0.4, abs=0.01)
    moved = maps[:, 0, 2].abs() + maps[:, 1, 2].abs() > 1e-9
    assert moved.double().mean().item() == pytest.approx(p, abs=0.015)
    # Rotations alone leave the singular values equal; of the two one happens with probability p, if nothing stretches.
    values = torch.linalg.svdvals(linear)
    stretched = (values[:, 0] / values[:, 1] - 1).abs() > 1e-9
    assert stretched.double().mean().item() == pytest.approx(p, abs=0.015)
    turned = linear[:, 0, 1].abs() > 1e-9
    assert turned[~stretched].double().mean().item() == pytest.approx(p, abs=0.02)


def test_blitting_moves_whole_pixels_within_an_eighth() -> None:
    maps = blitting(draws(5_000), one(1.0), 32, 64)
    linear = maps[:, :2, :2]
    assert torch.equal(linear, linear.round())
    assert (torch.linalg.det(linear).abs() == 1).all()
    # All eight combinations of mirroring and quarter turns, equally often.
    kinds, counts = linear.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 8
    assert (counts.double() / 5_000 - 1 / 8).abs().max() < 0.02
    shift = torch.linalg.solve(linear, -maps[:, :2, 2:]).squeeze(2)
    assert torch.allclose(shift, shift.round(), atol=1e-9)
    assert shift[:, 0].abs().max().item() == pytest.approx(8)
    assert shift[:, 1].abs().max().item() == pytest.approx(4)


def test_colours_have_the_papers_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    def only(name: str, strength: float) -> Tensor:
        for other in ("_BRIGHTNESS_STD", "_CONTRAST_STD", "_SATURATION_STD"):
            monkeypatch.setattr(pipeline_module, other, strength if other == name else 0.0)
        return colors(draws(20_000), one(1.0))

    assert only("_BRIGHTNESS_STD", 0.2)[:, 0, 3].abs().max() > 0
    gray = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=F64) / math.sqrt(3)
    contrast = (only("_CONTRAST_STD", 0.5) @ gray)[:, :3].norm(dim=1)
    assert contrast.log2().std().item() == pytest.approx(0.5, abs=0.01)
    brightness = only("_BRIGHTNESS_STD", 0.2) @ torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=F64)
    # A luma flip turns the sign, which the deviation of a symmetric distribution does not show.
    assert brightness[:, 0].std().item() == pytest.approx(0.2, abs=0.005)
    red_blue = torch.tensor([1.0, 0.0, -1.0, 0.0], dtype=F64)
    saturated = (only("_SATURATION_STD", 1.0) @ red_blue)[:, :3]
    assert (saturated.norm(dim=1) / math.sqrt(2)).log2().std().item() == pytest.approx(1.0, abs=0.02)
    # Any hue: the direction in the plane across the gray axis is uniform, and the plane is kept.
    assert saturated.sum(dim=1).abs().max() < 1e-9 * saturated.norm(dim=1).max()
    assert (saturated / saturated.norm(dim=1, keepdim=True)).mean(dim=0).abs().max() < 0.02


def test_a_luma_flip_mirrors_along_the_gray_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "_angle", lambda draws, p: torch.zeros(draws.batch, dtype=draws.dtype))
    for name in ("_BRIGHTNESS_STD", "_CONTRAST_STD", "_SATURATION_STD"):
        monkeypatch.setattr(pipeline_module, name, 0.0)
    maps = colors(draws(2_000), one(1.0))[:, :3, :3]
    flipped = torch.eye(3, dtype=F64) - torch.full((3, 3), 2 / 3, dtype=F64)
    is_flip = (maps - flipped).abs().amax(dim=(1, 2)) < 1e-9
    is_same = (maps - torch.eye(3, dtype=F64)).abs().amax(dim=(1, 2)) < 1e-9
    assert (is_flip | is_same).all()
    assert is_flip.double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_gray_images_are_flipped_too_and_get_what_equal_channels_would() -> None:
    negative = colors(draws(2_000), one(1.0), gray=True)[:, 0, :3].sum(dim=1) < 0
    assert negative.double().mean().item() == pytest.approx(0.5, abs=0.03)
    gray = torch.randn(3, 1, 5, 5, dtype=F64)
    maps = colors(draws(3), one(1.0))
    expected = apply_colors(gray.expand(-1, 3, -1, -1), maps).mean(dim=1, keepdim=True)
    assert torch.allclose(apply_colors(gray, maps), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast(dtype: torch.dtype) -> None:
    images = torch.randn(4, 3, 8, 8).to(dtype)
    expected = augment(images.float(), 1.0, generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = augment(images, 1.0, generator=generator())
    assert result.dtype == dtype
    assert torch.equal(result, expected.to(dtype))


@pytest.mark.parametrize("channels", [1, 3])
def test_derivatives(channels: int) -> None:
    images = torch.randn(2, channels, 4, 4, dtype=F64, requires_grad=True)

    def same_draws(x: Tensor) -> Tensor:
        return augment(x, 1.0, generator=generator(5))

    assert torch.autograd.gradcheck(same_draws, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: same_draws(x).tanh(), images, fast_mode=True)


def test_r1_through_the_augmentation_reaches_the_weights() -> None:
    torch.manual_seed(0)
    discriminator = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(4 * 36, 1)).double()
    images = torch.randn(2, 3, 8, 8, dtype=F64)

    def penalty(weight: Tensor) -> Tensor:
        real = images.clone().requires_grad_()
        output = torch.func.functional_call(
            discriminator, {"0.weight": weight}, augment(real, 0.9, generator=generator(2))
        )
        (gradient,) = torch.autograd.grad(output.sum(), real, create_graph=True)
        return gradient.square().sum()

    weight = discriminator[0].weight.detach().clone().requires_grad_()
    assert torch.autograd.grad(penalty(weight), weight)[0].abs().max() > 0
    assert torch.autograd.gradcheck(penalty, weight, fast_mode=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: augment(x, 0.5, pipeline="bgcf"), "pipeline: expected one of b, g, c.* got 'bgcf'"),
        (lambda x: augment(x, 1.5), "p: expected a probability from 0 to 1, got 1.5"),
        (
            lambda x: augment(x[0], 0.5),
            r"images: expected floating point \(B, C, H, W\), got torch.float32 \(2, 8, 8\)",
        ),
        (lambda x: augment(x.byte(), 0.5), "got torch.uint8"),
        (lambda x: augment(x, 0.5), "expects 1 or 3 channels, got 2"),
        (lambda x: AdaptiveAugment("x"), "pipeline: expected"),
        (lambda x: AdaptiveAugment(p=1.5), "p: expected a probability from 0 to max_p = 1.0, got 1.5"),
        (lambda x: AdaptiveAugment(target=2), "target: expected a number from -1 to 1, got 2"),
        (lambda x: AdaptiveAugment(interval=0), "interval: expected a whole number of at least 1, got 0"),
        (lambda x: AdaptiveAugment(kimg=0), "kimg: expected thousands of images above 0, got 0"),
        (lambda x: AdaptiveAugment(max_p=-1), "max_p: expected a probability from 0 to 1, got -1"),
    ],
)
def test_wrong_arguments(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 2, 8, 8))


# The controller


def test_p_follows_the_papers_rule() -> None:
    ada = AdaptiveAugment(kimg=1.0, interval=4)
    overfit, fresh = torch.tensor([1.0, 2.0, 0.5, 3.0, -1.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, -1.0])
    assert ada.r_t.item() == 0.0
    for step in range(1, 9):
        ada.observe(overfit)
        ada.adjust(batch_size=8)
        # 4 steps of 8 images over 1,000 images.
        assert ada.p.item() == pytest.approx(step // 4 * 0.032)
    assert ada.r_t.item() == pytest.approx(0.75)
    for _ in range(4):
        ada.observe(fresh)
        ada.adjust(batch_size=8)
    assert ada.r_t.item() == 0.0
    assert ada.p.item() == pytest.approx(0.032)


def test_p_stays_in_its_range_and_without_outputs() -> None:
    ada = AdaptiveAugment(kimg=0.004, interval=1, p=0.3, max_p=0.8)
    ada.adjust(batch_size=1)
    assert ada.p.item() == pytest.approx(0.3)
    for outputs, limit in ((torch.ones(4), 0.8), (-torch.ones(4), 0.0)):
        for _ in range(6):
            ada.observe(outputs)
            ada.adjust(batch_size=1)
        assert ada.p.item() == pytest.approx(limit)


def test_the_state_dict_resumes_between_two_adjustments() -> None:
    def play(ada: AdaptiveAugment, steps: range) -> None:
        for step in steps:
            ada.observe(torch.full((3,), 1.0 if step % 7 else -1.0))
            ada.adjust(batch_size=3)

    straight = AdaptiveAugment(kimg=0.1)
    play(straight, range(14))
    first = AdaptiveAugment(kimg=0.1)
    play(first, range(6))
    resumed = AdaptiveAugment(kimg=0.1)
    resumed.load_state_dict(first.state_dict())
    play(resumed, range(6, 14))
    assert straight.p.item() > 0
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_module_uses_its_own_p() -> None:
    images = torch.randn(4, 3, 8, 8)
    ada = AdaptiveAugment("bg")
    assert torch.equal(ada(images, generator()), images)
    ada.p.fill_(0.9)
    expected = augment(images, 0.9, pipeline="bg", generator=generator(1))
    assert torch.equal(ada(images, generator(1)), expected)
    assert not list(ada.parameters())
    assert "target=0.6" in repr(ada)

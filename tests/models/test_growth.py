from itertools import pairwise

import pytest
import torch

from ganfuse.engine.schedules import Progress
from ganfuse.models.growth import Growth, batch_sizes_of, fade_in

F64 = torch.float64


def at(kimg: float) -> Progress:
    return Progress(images=round(1000 * kimg))


def lod_of_the_authors(kimg: float, start: int, last: int, stable: float, fade: float) -> float:
    """Their level of detail: 0 at full resolution, whole in stable phases, falling while a resolution fades in."""
    phase = int(kimg // (stable + fade))
    within = kimg - phase * (stable + fade)
    lod = (last - start) - phase - max(within - stable, 0.0) / fade
    return max(lod, 0.0)


@pytest.mark.parametrize(("start", "stable", "fade"), [(4, 600.0, 600.0), (8, 3.0, 2.0)])
def test_schedule_is_the_published_one(start, stable, fade):
    growth = Growth(64, start=start, stable_kimg=stable, fade_kimg=fade)
    assert (growth.first, growth.last) == ({4: 0, 8: 1}[start], 4)
    for tenth in range(90):
        kimg = tenth * (stable + fade) / 20 + 0.001
        level, alpha = growth.at(at(kimg))
        lod = lod_of_the_authors(round(1000 * kimg) / 1000, growth.first, growth.last, stable, fade)
        # The images' resolution is that of the whole part; the fraction is the share of the old image.
        assert level == growth.last - int(lod)
        assert alpha == pytest.approx(1.0 - (lod - int(lod)))


def test_phases_and_batch_sizes():
    growth = Growth(32, stable_kimg=2, fade_kimg=1, batch_sizes={"4": 16, 16: 8})
    stages = [growth.stage(at(kimg)) for kimg in (0, 2, 2.1, 3, 5.5, 6.5, 8.5, 9.5, 100)]
    names = [
        "4 px",
        "4 px",
        "8 px, fading in",
        "8 px",
        "16 px, fading in",
        "16 px",
        "32 px, fading in",
        "32 px",
        "32 px",
    ]
    assert [stage.name for stage in stages] == names
    assert [stage.batch_size for stage in stages] == [16, 16, 16, 16, 8, 8, 8, 8, 8]
    # Optimisers start anew at the beginning and at the end of a fade, and at no other time.
    changes = [a.phase != b.phase for a, b in pairwise(stages)]
    assert changes == [False, True, True, True, True, True, True, False]
    assert Growth(8).stage(at(0)).batch_size is None


def test_reals_are_averaged_down_and_faded():
    growth = Growth(16, stable_kimg=2, fade_kimg=1).double()
    images = torch.randn(2, 3, 16, 16, dtype=F64)
    growth.advance(at(0))
    assert growth.alpha is None
    torch.testing.assert_close(growth.shrink(images), images.unfold(2, 4, 4).unfold(3, 4, 4).mean((4, 5)))
    growth.advance(at(2.25))
    assert growth.level == 1
    eight = images.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    four = eight.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    old = four.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(growth.shrink(images), 0.75 * old + 0.25 * eight)
    growth.advance(at(7))
    torch.testing.assert_close(growth.shrink(images), images)
    with pytest.raises(ValueError, match="images: expected 16 × 16"):
        growth.shrink(images[..., :8])


def test_enlarged_pixels_are_repeated():
    images = torch.randn(1, 2, 4, 4)
    assert torch.equal(Growth(16).enlarge(images), images.repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_fade_in():
    old, new = torch.randn(2, 3, dtype=F64), torch.randn(2, 3, dtype=F64)
    torch.testing.assert_close(fade_in(old, new, torch.tensor(0.3)), (1 - 0.3) * old + 0.3 * new, atol=1e-7, rtol=0)


def test_position_is_in_the_state():
    growth, other = Growth(32, stable_kimg=2, fade_kimg=1), Growth(32, stable_kimg=2, fade_kimg=1)
    growth.advance(at(2.25))
    other.load_state_dict(growth.state_dict())
    assert (other.level, float(other.alpha)) == (1, 0.25)
    growth.advance(at(3.5))
    other.load_state_dict(growth.state_dict())
    assert (other.level, other.alpha) == (1, None)


def test_learning_rates_by_resolution():
    growth = Growth(64, stable_kimg=2, fade_kimg=1)
    schedule = growth.schedule({"16": 2e-3, 32: 3e-3}, 1e-3)
    factors = [schedule(at(kimg)) for kimg in (0, 4, 5.5, 7, 8.5, 50)]
    assert factors == pytest.approx([1, 1, 2, 2, 3, 3])


def test_learning_rates_are_a_table():
    with pytest.raises(ValueError, match=r"lr_by_resolution: expected a table by resolution, .* got 0.1"):
        Growth(64).schedule(0.1, 1e-3)


def test_a_phase_may_be_left_out():
    growth = Growth(16, stable_kimg=0, fade_kimg=1)
    assert [growth.at(at(kimg)) for kimg in (0, 0.5, 1.5)] == [(0, 1.0), (1, 0.5), (2, 0.5)]
    growth = Growth(16, stable_kimg=1, fade_kimg=0)
    assert [growth.at(at(kimg)) for kimg in (0, 0.5, 1.5, 3)] == [(0, 1.0), (0, 1.0), (1, 1.0), (2, 1.0)]


def test_all_stages_and_when_they_begin():
    growth = Growth(16, stable_kimg=2, fade_kimg=1, batch_sizes={16: 8})
    begins, stages = zip(*growth.stages())
    assert begins == (0, 2, 3, 5, 6)
    assert [stage.name for stage in stages] == ["4 px", "8 px, fading in", "8 px", "16 px, fading in", "16 px"]
    # Each is the one that a step within it belongs to.
    assert list(stages) == [growth.stage(at(kimg + 0.5)) for kimg in begins]
    abrupt = Growth(16, start=8, stable_kimg=2, fade_kimg=0).stages()
    assert [(begin, stage.name) for begin, stage in abrupt] == [(0, "8 px"), (2, "16 px")]
    assert [stage.name for _, stage in Growth(16, start=16).stages()] == ["16 px"]


def test_the_resolution_that_is_reached():
    growth = Growth(16, stable_kimg=2, fade_kimg=1)
    reached = []
    for kimg in (0, 2.5, 3.5, 5.5, 9):
        growth.advance(at(kimg))
        reached.append(growth.reached)
    assert reached == [4, 4, 8, 8, 16]


def test_enlarged_images_are_reduced_again_and_not_faded():
    growth = Growth(16, stable_kimg=2, fade_kimg=1)
    growth.advance(at(2.25))
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(growth.reduce(growth.enlarge(images)), images)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"start": 6}, "start: expected one of 4, 8, 16, got 6"),
    ({"start": 32}, "start: expected one of"),
    ({"stable_kimg": -1}, "stable_kimg: expected a number"),
    ({"stable_kimg": 0, "fade_kimg": 0}, "stable_kimg: expected more than 0"),
    ({"batch_sizes": {"big": 4}}, r"batch_sizes: expected resolutions for keys \(4, 8, 16...\), got 'big'"),
    ({"batch_sizes": {6: 4}}, "batch_sizes: expected resolutions for keys .* got 6"),
    ({"batch_sizes": {2: 4}}, "batch_sizes: expected resolutions for keys .* got 2"),
    ({"batch_sizes": 16}, "batch_sizes: expected a table by resolution, such as {4: 1, 64: 2}, got 16"),
    ({"batch_sizes": [16, 8]}, "batch_sizes: expected a table by resolution"),
    ({"batch_sizes": {4: 0}}, "batch_sizes: expected positive numbers, got 0 for 4"),
    ({"batch_sizes": {4: 2.5}}, "batch_sizes: expected whole numbers"),
])  # fmt: skip
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Growth(16, **wrong)


def test_batch_sizes_by_name():
    assert batch_sizes_of("paper", {4: 16}) == {4: 16}
    assert batch_sizes_of(None, {4: 16}) is None
    with pytest.raises(ValueError, match="batch_sizes: expected 'paper'"):
        batch_sizes_of("papers", {4: 16})

"""Schedules against the published formulas."""

import math

import pytest

from ganfuse.engine.schedules import (
    ConstantThenLinear,
    Cosine,
    Exponential,
    Progress,
    StepDecay,
    Warmup,
    named_schedule,
    piecewise,
)


def at(step=1, images=0):
    return Progress(step=step, images=images, dataset_size=1000, batch_size=10, steps=100)


def test_progress_in_every_unit():
    progress = at(step=21, images=2500)
    assert (progress.elapsed("steps"), progress.elapsed("epochs"), progress.elapsed("kimg")) == (20, 2.5, 2.5)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (99, 1), (100, 1), (150, 0.5), (175, 0.25), (200, 0), (300, 0)])
def test_cyclegan_decay(epoch, factor):
    assert ConstantThenLinear(100, 100)(at(images=1000 * epoch)) == pytest.approx(factor)


def test_linear_to_another_end():
    assert ConstantThenLinear(0, 10, "steps", final=0.5)(at(step=6)) == pytest.approx(0.75)


@pytest.mark.parametrize(("epoch", "factor"), [(0, 1), (200, 1), (300, 0.1), (400, 0.01)])
def test_bigan_decay(epoch, factor):
    assert Exponential(200, 200)(at(images=1000 * epoch)) == pytest.approx(factor)


@pytest.mark.parametrize(("step", "factor"), [(1, 1), (100_000, 1), (100_001, 0.5), (250_000, 0.25)])
def test_step_decay(step, factor):
    assert StepDecay(100_000)(at(step=step)) == factor


def test_cosine():
    schedule = Cosine(8, final=0.2)
    for step in range(1, 12):
        share = min(1, (step - 1) / 8)
        assert schedule(at(step=step)) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * share)) / 2)


def test_warmup_has_an_effect_from_the_first_step_on_and_multiplies():
    schedule = Warmup(4, then=StepDecay(6))
    assert [schedule(at(step=step)) for step in range(1, 9)] == [0.25, 0.5, 0.75, 1, 1, 1, 0.5, 0.5]
    assert Warmup(2, unit="kimg")(at(images=500)) == 0.25


def test_piecewise():
    schedule = piecewise([1, 3], [1.0, 0.5, 0.1])
    assert [schedule(at(images=images)) for images in (0, 999, 1000, 2999, 3000, 9000)] == [1, 1, 0.5, 0.5, 0.1, 0.1]


def test_by_name():
    assert named_schedule("constant", 5, "steps") is None
    assert named_schedule("linear", 5, "kimg", constant=2) == ConstantThenLinear(2, 5, "kimg")
    assert named_schedule("cosine", 5, "steps") == Cosine(5)
    assert named_schedule("exponential", 5, "epochs") == Exponential(0, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantThenLinear(1, 0), "decay: expected a positive number, got 0"),
        (lambda: Cosine(5, unit="days"), "unit: expected one of 'steps', 'epochs', 'kimg', got 'days'"),
        (lambda: StepDecay(0), "every: expected a positive"),
        (lambda: Exponential(1, 1, final=0), "final: expected a positive"),
        (lambda: Warmup(-1), "length: expected a positive"),
        (lambda: Cosine("long"), "length: expected a positive number, got 'long'"),
        (lambda: named_schedule("sine", 1, "steps"), "schedule: expected one of 'constant'"),
        (lambda: piecewise([1], [1.0]), "values: expected 2, one more than boundaries, got 1"),
        (lambda: piecewise([2, 1], [1.0, 2.0, 3.0]), "boundaries: expected increasing"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()

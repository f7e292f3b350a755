"""Evaluations as a whole: which images are drawn, what is stored, and that better images get better scores."""

import math

import pytest
import torch
from torch import nn

from ganfuse.engine.data import EmbeddedDataset, ImageDataset
from ganfuse.engine.metrics import METRICS, Evaluator, ModuleExtractor, compute_scores
from ganfuse.engine.metrics.drawn_images import apply_standing_statistics, drawn_batches
from ganfuse.engine.metrics.evaluation_log import append_evaluation, read_evaluations
from ganfuse.engine.metrics.extractor import Extracted
from ganfuse.engine.metrics.random_network import RandomExtractor
from ganfuse.engine.metrics.scores import check_metrics, default_metrics
from ganfuse.engine.run_folder import RunFolder
from ganfuse.models import create
from tests.engine.metrics.shapes import BarGame, Bars, Unlabelled
from tests.engine.toys import SIZE, toy_game


class Flat(nn.Module):
    """Pixels as features, and three classes."""

    def forward(self, x):
        return x.flatten(1), x.flatten(1)[:, :3]


def pixels() -> ModuleExtractor:
    return ModuleExtractor(Flat(), name="pixels", channels=1)


def test_better_images_have_better_scores():
    evaluator = Evaluator(RandomExtractor(channels=1, resolution=8), Bars(300), ["fid", "kid", "pr", "dc"], num=300)
    good, worse, bad = (evaluator.evaluate(BarGame(gray)) for gray in (0.0, 0.3, 0.9))
    assert list(good) == ["fid", "kid", "kid_std", "precision", "recall", "density", "coverage"]
    for name in ("fid", "kid"):
        assert good[name] < worse[name] < bad[name]
    for name in ("precision", "density", "coverage"):
        assert good[name] > bad[name]
    assert good["coverage"] > 0.9
    assert bad["precision"] == 0


def test_the_same_seed_draws_the_same_images_on_the_same_real_ones():
    def evaluate(**options):
        return Evaluator(pixels(), Bars(), ["fid"], num=100, **options).evaluate(BarGame(0.2))

    torch.manual_seed(5)
    first = evaluate(seed=1)
    torch.manual_seed(6)
    assert evaluate(seed=1) == first
    assert evaluate(seed=2) != first


def test_real_features_are_computed_once_and_of_different_images():
    seen = []

    class Counting(Bars):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    evaluator = Evaluator(pixels(), Counting(50), ["fid"], num=40, batch_size=16)
    for _ in range(2):
        evaluator.evaluate(BarGame())
    assert len(seen) == len(set(seen)) == 40
    assert evaluator.real_features().features.shape == (40, 64)


def test_classes_are_drawn_as_often_as_the_data_has_them():
    game = BarGame()
    data = Bars(200, shares=(0, 0, 0, 2))
    Evaluator(pixels(), data, ["fid"], num=400, batch_size=64).evaluate(game)
    assert len(game.asked) == 400
    assert game.asked.count(1) == 0
    assert game.asked.count(0) == pytest.approx(300, abs=40)


def test_texts_are_drawn_as_often_as_the_data_has_them():
    """Not of the few that a text-to-image game keeps for its grids, each as often as the other."""
    torch.manual_seed(0)
    images = ImageDataset(
        name="toy", labels=[0] * 30 + [1] * 10, class_names="ab", channels=1, resolution=32,
        images=torch.randint(256, (40, 1, 32, 32)).to(torch.uint8),
    )  # fmt: skip
    captions = torch.randn(40, 3, 6)
    data = EmbeddedDataset(images, captions)
    game = create(
        "gan-cls", resolution=32, channels=1, embedding_dim=6, width=1, discriminator_width=1, latent_dim=2, captions=2
    )
    game.check_data(data)
    asked = []
    game.generator.register_forward_pre_hook(lambda module, arguments: asked.append(arguments[1]))
    extractor = RandomExtractor(channels=1, resolution=32)
    Evaluator(extractor, data, ["fid"], num=400, batch_size=64).evaluate(game, standing_statistics=1)
    drawn = torch.cat(asked[-7:])
    assert len(drawn) == 400
    places = torch.cdist(drawn, captions[:, :2].mean(1)).argmin(1)
    torch.testing.assert_close(drawn, captions[places, :2].mean(1))
    assert len(set(places.tolist())) == 40
    assert int((places < 30).sum()) == pytest.approx(300, abs=40)


def test_the_classes_must_be_those_of_the_data():
    with pytest.raises(ValueError, match="data: the game draws 3 classes, the data has 1"):
        Evaluator(pixels(), Unlabelled(), ["fid"], num=20).evaluate(BarGame())
    with pytest.raises(ValueError, match="data: the game draws 2 classes, the data has 3"):
        Evaluator(pixels(), Bars(), ["fid"], num=20).evaluate(BarGame(num_classes=2))
    assert Evaluator(pixels(), Bars(), ["fid"], num=20).evaluate(BarGame(num_classes=5))["fid"] >= 0
    unconditional = BarGame(num_classes=None)
    assert Evaluator(pixels(), Unlabelled(), ["fid"], num=20).evaluate(unconditional)["fid"] >= 0


def test_items_may_be_mappings_but_must_hold_one_image():
    class Mappings(Bars):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return {"image": image, "label": label}

    class Pairs(Bars):
        def __getitem__(self, index):
            image, _ = super().__getitem__(index)
            return {"image_a": image, "image_b": image}

    def evaluate(data):
        return Evaluator(pixels(), data, ["fid"], num=20).evaluate(BarGame())

    assert evaluate(Mappings()) == evaluate(Bars())
    with pytest.raises(ValueError, match="data: scores need a data set of single images"):
        evaluate(Pairs())


def test_what_is_stored_beside_a_score():
    described = Evaluator(pixels(), Bars(30), ["fid"], num=40, batch_size=8, seed=3).describe()
    assert described["extractor"]["name"] == "pixels"
    assert described["extractor"]["resize"] == "none"
    assert (described["num_real"], described["num_fake"]) == (30, 40)
    assert (described["batch_size"], described["seed"], described["data"]) == (8, 3, "bars")
    assert set(described["versions"]) == {"ganfuse", "torch", "python"}


def test_games_that_translate_have_nothing_to_score():
    class Translator(BarGame):
        def sample(self, n, *, labels=None, rng=None):
            raise NotImplementedError

    with pytest.raises(ValueError, match="game: 'bars' does not draw images from noise"):
        Evaluator(pixels(), Bars(), ["fid"], num=20).evaluate(Translator())


def test_truncation_is_for_games_that_know_how():
    class Truncating(BarGame):
        def sample(self, n, *, labels=None, rng=None, truncation=None):
            self.truncation = truncation
            return super().sample(n, labels=labels, rng=rng)

    game = Truncating()
    list(drawn_batches(game, 8, labels=None, batch_size=4, seed=0, truncation=0.5))
    assert game.truncation == 0.5
    with pytest.raises(ValueError, match="truncation: the game 'bars' cannot truncate"):
        list(drawn_batches(BarGame(), 8, labels=None, batch_size=4, seed=0, truncation=0.5))


def test_images_come_in_batches_and_are_as_many_as_asked_for():
    batches = list(drawn_batches(BarGame(), 10, labels=None, batch_size=4, seed=0))
    assert [tuple(batch.shape) for batch in batches] == [(4, 1, 8, 8), (4, 1, 8, 8), (2, 1, 8, 8)]
    assert all(batch.dtype == torch.uint8 for batch in batches)


def test_standing_statistics_are_those_of_the_images_that_are_drawn():
    game = toy_game()
    norm = game.generator.body[1]
    labels = torch.tensor([0, 1, 2])
    seen = []
    handle = norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    apply_standing_statistics(game, 3, labels=labels, batch_size=20, seed=4)
    handle.remove()
    # Each batch is drawn once in evaluation mode, and run once more to take its statistics.
    assert len(seen) == 6
    for drawn, run in zip(seen[:3], seen[3:]):
        assert torch.equal(drawn, run)
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(0) for x in seen[3:]]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var(0) for x in seen[3:]]).mean(0))


def test_standing_statistics_change_scores_and_need_a_generator():
    class Data(Bars):
        resolution = SIZE

    evaluator = Evaluator(pixels(), Data(), ["fid"], num=60)
    game = toy_game()
    before = evaluator.evaluate(game)
    assert evaluator.evaluate(game, standing_statistics=2) != before

    class Other(BarGame):
        def __init__(self):
            super().__init__()
            self.decoder = self.generator
            del self.generator

    with pytest.raises(ValueError, match="standing_statistics: the game 'bars' has no part called generator"):
        evaluator.evaluate(Other(), standing_statistics=2)
    with pytest.raises(ValueError, match="draws images without its generator"):
        evaluator.evaluate(BarGame(), standing_statistics=2)


# names of scores


def test_names_of_metrics():
    assert default_metrics(True) == ("fid", "kid", "is", "pr", "dc")
    assert default_metrics(False) == ("fid", "kid", "pr", "dc")
    assert check_metrics(["kid", "fid", "kid"]) == ("kid", "fid")
    with pytest.raises(ValueError, match="metrics: there is none called 'fidd'; did you mean 'fid'"):
        check_metrics(["fid", "fidd"])
    with pytest.raises(ValueError, match="metrics: expected at least one"):
        check_metrics([])


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_works_with_its_least_number_of_images_and_not_with_fewer(name):
    least = METRICS[name].least_images

    def extracted(n):
        return Extracted(torch.randn(n, 3), torch.randn(n, 3).softmax(1))

    found = compute_scores([name], extracted(least), extracted(least))
    assert tuple(found) == METRICS[name].values
    assert all(math.isfinite(value) for value in found.values())
    with pytest.raises(ValueError, match=f"metrics: '{name}' needs at least {least} images of each kind"):
        compute_scores([name], extracted(least), extracted(least - 1))


def test_the_inception_score_needs_probabilities():
    features = Extracted(torch.randn(20, 3), None)
    with pytest.raises(ValueError, match="metrics: 'is' needs an extractor with class probabilities"):
        compute_scores(["is"], features, features)


# the log


def test_the_log_survives_a_line_half_written(tmp_path):
    run = RunFolder(tmp_path)
    assert read_evaluations(run) == []
    append_evaluation(run, {"step": 1})
    with open(run.evaluations_file, "a") as file:
        file.write('{"step": 2, "sco')
    append_evaluation(run, {"step": 3})
    assert read_evaluations(run) == [{"step": 1}, {"step": 3}]
    run.clear()
    assert not run.evaluations_file.exists()

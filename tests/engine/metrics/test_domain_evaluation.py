"""Scores of games of two domains, on translators that are known."""

import pytest
import torch
from torch import nn

from ganfuse.engine import Evaluate, Trainer
from ganfuse.engine.domains import central_square
from ganfuse.engine.metrics import DomainEvaluator, compute_scores, read_evaluations
from ganfuse.engine.metrics.evaluator_choice import make_evaluator
from ganfuse.engine.metrics.image_batches import to_uint8
from ganfuse.engine.metrics.random_network import RandomExtractor
from ganfuse.engine.run_folder import RunFolder
from ganfuse.models import create
from tests.engine.test_translation import ShiftGame
from tests.engine.toys import ToyData, plain_game
from tests.models.translation_checks import ToyDomains

# The toy domains have brightnesses of 20 and 150.
APART = 130 / 127.5


class Brighter(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, images):
        return images + self.by


def translating(there: float, back: float, **options: object) -> ShiftGame:
    game = ShiftGame(**options)
    game.generator_ab, game.generator_ba = Brighter(there), Brighter(back)
    return game


def evaluator(data: ToyDomains, **options: object) -> DomainEvaluator:
    extractor = RandomExtractor(channels=1, resolution=8)
    return DomainEvaluator((extractor, extractor), data, ["fid"], **{"num": 100, "batch_size": 4, **options})


def test_values_of_translations():
    data = ToyDomains(1, 8)
    game = translating(0.5, -0.25)
    found = evaluator(data, num=5)
    scores = found.evaluate(game)
    assert list(scores) == ["fid", "fid_ab", "fid_ba", "cycle_a", "cycle_b"]
    assert scores["fid"] == pytest.approx((scores["fid_ab"] + scores["fid_ba"]) / 2)
    # There and back leaves 0.5 − 0.25, whatever the image.
    assert scores["cycle_a"] == pytest.approx(0.25, abs=1e-6)
    assert scores["cycle_b"] == pytest.approx(0.25, abs=1e-6)
    extract = RandomExtractor(channels=1, resolution=8)
    a, b = (data.domains[index].images[found._chosen(index)] for index in (0, 1))
    for key, source, target, by in (("fid_ab", a, b, 0.5), ("fid_ba", b, a, -0.25)):
        fake = extract(to_uint8(source / 127.5 - 1 + by))
        assert scores[key] == pytest.approx(compute_scores(["fid"], extract(target), fake)["fid"], rel=1e-6)


def test_better_translations_score_better():
    data = ToyDomains(1, 8, paired=True)
    found = evaluator(data)
    good, bad = found.evaluate(translating(APART, -APART)), found.evaluate(translating(0.0, 0.0))
    assert list(good) == ["fid", "fid_ab", "fid_ba", "cycle_a", "cycle_b", "paired_ab", "paired_ba"]
    for key in ("fid", "fid_ab", "fid_ba", "paired_ab", "paired_ba"):
        assert good[key] < 0.5 * bad[key]
    a, b = (domain.images / 127.5 for domain in data.domains)
    assert good["paired_ab"] == pytest.approx(float((a + APART - b).abs().mean()), rel=1e-5)
    assert good["paired_ba"] == pytest.approx(float((b - APART - a).abs().mean()), rel=1e-5)


def test_a_game_that_crops_is_compared_with_crops():
    data = ToyDomains(1, 8)
    found = evaluator(data)
    scores = found.evaluate(translating(0.5, -0.5, crop=4))
    extract = RandomExtractor(channels=1, resolution=8)
    a, b = (central_square(data.domains[index].images[found._chosen(index)], 4) for index in (0, 1))
    fake = extract(to_uint8(a / 127.5 - 0.5))
    assert scores["fid_ab"] == pytest.approx(compute_scores(["fid"], extract(b), fake)["fid"], rel=1e-6)
    assert found.evaluate(translating(0.5, -0.5))["fid_ab"] != scores["fid_ab"]


def test_games_that_draw_pairs():
    game = create("cogan", width=1, discriminator_width=1)
    data = ToyDomains(1, 28)
    found = DomainEvaluator((RandomExtractor(channels=1, resolution=28),) * 2, data, ["kid"], num=5, batch_size=3)
    scores = found.evaluate(game)
    assert list(scores) == ["kid", "kid_a", "kid_b", "kid_a_std", "kid_b_std"]
    assert scores["kid"] == pytest.approx((scores["kid_a"] + scores["kid_b"]) / 2)
    assert scores["kid_a"] != scores["kid_b"]
    assert found.evaluate(game) == scores
    assert found.evaluate(game, standing_statistics=2) != scores


def test_accuracy_of_an_adapted_classifier():
    game = create("cogan", width=1, discriminator_width=1, num_classes=2)
    data = ToyDomains(1, 28)
    found = DomainEvaluator((RandomExtractor(channels=1, resolution=28),) * 2, data, ["fid"], num=5, batch_size=3)
    scores = found.evaluate(game)
    assert list(scores)[3:] == ["accuracy_a", "accuracy_b"]
    for index, domain in enumerate("ab"):
        images = data.domains[index].images[found._chosen(index)] / 127.5 - 1
        # All toy labels are 0.
        right = (game.classify(images, domain=domain).argmax(1) == 0).float().mean()
        assert scores[f"accuracy_{domain}"] == pytest.approx(float(right))


def test_what_is_stored_beside_the_scores():
    extractors = RandomExtractor(channels=1, resolution=8), RandomExtractor(channels=1, resolution=4)
    about = DomainEvaluator(extractors, ToyDomains(1, 8), ["fid"], num=100).describe()
    assert (about["num_real"], about["num_fake"], about["paired"], about["data"]) == (5, 5, False, "toy domains")
    assert about["extractor"]["name"] == "random"
    assert about["extractor"]["resolution"] == [extractor.resolution for extractor in extractors]


def test_who_gets_which_evaluator(tmp_path):
    options = {"device": torch.device("cpu"), "num": 5}
    data = ToyDomains(1, 8)
    found = make_evaluator(ShiftGame(), "random", data, data, None, **options)
    assert isinstance(found, DomainEvaluator)
    assert found.metrics == ("fid", "kid")
    single = make_evaluator(plain_game(), "random", ToyData(), ToyData(), None, **options)
    assert not isinstance(single, DomainEvaluator)
    assert single.metrics == ("fid", "kid", "pr", "dc")
    with pytest.raises(ValueError, match="expected images of two domains, got 'toy' with one"):
        make_evaluator(ShiftGame(), "random", data, ToyData(), None, **options)
    with pytest.raises(ValueError, match="truncation: shift translates images, there are no latents"):
        found.evaluate(ShiftGame(), truncation=0.5)
    with pytest.raises(ValueError, match="standing_statistics: shift translates images"):
        found.evaluate(ShiftGame(), standing_statistics=4)
    with pytest.raises(ValueError, match="neither translates images nor draws them by domain"):
        found.evaluate(plain_game())


def test_scores_while_training(tmp_path):
    hook = Evaluate(every=1, num=5, extractor="random")
    Trainer(
        ShiftGame(), ToyDomains(1, 8), out=tmp_path, steps=2, batch_size=2, device="cpu", progress=False, hooks=[hook]
    ).fit()
    records = read_evaluations(RunFolder(tmp_path))
    assert [record["step"] for record in records] == [1, 2]
    assert records[-1]["scores"] == hook.scores
    assert hook.best.score == min(record["scores"]["fid"] for record in records)

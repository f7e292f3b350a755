"""The gallery of translations: its recipes, its page, and inversion on a tiny run."""

import json
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks import gallery_inversion, gallery_translation_page
from benchmarks.gallery_translation import RECIPES, RESULTS
from ganfuse import cli
from ganfuse.bench import records
from ganfuse.commands._settings import parse_assignments, sort_settings
from ganfuse.engine.options import option_names
from ganfuse.models import model_info

ROW = {
    "system": "cyclegan", "device": "A, 1 threads", "torch": "2", "num": 2000, "steps": 1000, "cpu_seconds": 90.0,
    "scores_first": {"fid": 300.0, "cycle_a": 0.5, "cycle_b": 0.7, "paired_ab": 0.4, "paired_ba": 0.6},
    "scores_last": {"fid": 30.0, "cycle_a": 0.1, "cycle_b": 0.3, "paired_ab": 0.04, "paired_ba": 0.06},
    "train": "ganfuse train cyclegan --out runs/cyclegan", "sample": "ganfuse sample runs/cyclegan",
    "evaluate": "ganfuse evaluate runs/cyclegan --paired",
}  # fmt: skip


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_are_settings_of_their_systems(name: str) -> None:
    words = shlex.split(RECIPES[name].train)
    assigned = parse_assignments([word for option, word in pairwise(words) if option == "--set"])
    sorted_ = sort_settings(assigned, trainer_keys=option_names(), game_keys=model_info(name).config)
    assert not sorted_.subjects
    assert RECIPES[name].factor > 1


def test_page_has_what_fell_and_a_dash_for_what_there_is_not() -> None:
    way = {"error": 0.1, "error_at_start": 0.4, "starts": 4, "steps": 300, "seconds": 20.0}
    inversion = {"system": "inversion-bigan", "kind": "inversion", "ways": {"search in z": way}, "command": "python x"}
    pairs = {**ROW, "system": "cogan", "scores_first": {"fid": 9.0, "accuracy_a": 0.1, "accuracy_b": 0.2}}
    pairs["scores_last"] = {"fid": 3.0, "accuracy_a": 0.5, "accuracy_b": 0.4}
    text = gallery_translation_page.page(RECIPES, [ROW, pairs, inversion])
    row = "| [CycleGAN](#cyclegan) | 1,000 | 1.5 | 300 → 30 | 0.6 → 0.2 | 0.4 → 0.04 | 0.6 → 0.06 | – | – |"
    assert row in text.splitlines()
    assert "| [CoGAN](#cogan) | 1,000 | 1.5 | 9 → 3 | – | – | – | 0.1 → 0.5 | 0.2 → 0.4 |" in text.splitlines()
    assert "![CycleGAN on fashion-edges](cyclegan.png)" in text
    assert "ganfuse evaluate runs/cyclegan --paired" in text
    assert "| `bigan` | search in z | 4 | 300 | 0.4 | 0.1 | 20 |" in text
    assert "UNIT" not in text
    with pytest.raises(ValueError, match="no results"):
        gallery_translation_page.page(RECIPES, [{**ROW, "system": "other"}])


def test_the_page_in_docs_is_what_recipes_and_results_say() -> None:
    text = gallery_translation_page.PAGE.read_text(encoding="utf-8")
    assert text == gallery_translation_page.page(RECIPES, records.read(RESULTS))


def test_pictures_are_inverted_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Digits have no test split.
    monkeypatch.setattr(gallery_inversion, "pictures", lambda run, num: torch.rand(num, 1, 28, 28) * 2 - 1)
    run = tmp_path / "bigan"
    tiny = ["--resolution", "28", "--steps", "1", "--batch-size", "2", "--set", "width=4", "--set", "num_samples=4"]
    arguments = ["train", "bigan", "--data", "digits", "--out", str(run), *tiny]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    out = tmp_path / "out.jsonl"
    options = ["--steps", "3", "--num", "2", "--images", str(tmp_path / "images"), "--threads", "1"]
    assert gallery_inversion.main([str(run), *options], out) == 0
    (record,) = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    ways = record["ways"]
    assert list(ways) == ["encoder", "search in z", "search from the encoder's guess"]
    assert all(values["error"] <= values["error_at_start"] for values in ways.values())
    assert ways["search from the encoder's guess"]["error_at_start"] == pytest.approx(ways["encoder"]["error"])
    with Image.open(tmp_path / "images" / "inversion-bigan.png") as picture:
        assert picture.size == (2 * (2 * 28 + 2) + 2, 4 * (2 * 28 + 2) + 2)

"""The gallery's runs, with a recipe of two steps, and its page."""

import json
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import gallery, gallery_page
from benchmarks.gallery_recipes import RECIPES, Recipe
from ganfuse.bench import records
from ganfuse.commands._settings import parse_assignments, sort_settings
from ganfuse.engine.options import option_names
from ganfuse.models import model_info

TINY = """
from benchmarks.gallery_recipes import Recipe
RECIPES = {
    "tiny": Recipe(
        "Tiny GAN", "Of 4 units.", steps=2, train="--batch-size 4 --set width=4 --set log_every=1", factor={factor},
        model="gan", data="digits", sample="--num 4", evaluate="--extractor random",
    )
}
"""
ROW = {
    "system": "dcgan", "device": "A, 1 threads", "torch": "2", "num": 2000, "steps": 1000, "cpu_seconds": 90.0,
    "fid_first": 300.0, "fid_last": 30.0, "ratio": 10.0, "factor": 4.0,
    "train": "ganfuse train dcgan --out runs/dcgan --set 'a={4: 1}' " + "--set width=16 " * 8,
    "sample": "ganfuse sample runs/dcgan --num 80",
}  # fmt: skip


def run(tmp_path: Path, factor: float) -> int:
    (tmp_path / "recipes.py").write_text(TINY.replace("{factor}", str(factor)), encoding="utf-8")
    places = {"--recipes": "recipes.py", "--runs": "runs", "--images": "images", "--out": "out.jsonl"}
    arguments = [part for option, name in places.items() for part in (option, str(tmp_path / name))]
    return gallery.main(["tiny", *arguments, "--device", "cpu", "--threads", "1", "--num", "20"])


@pytest.mark.slow
def test_trains_scores_draws_and_records(tmp_path: Path) -> None:
    assert run(tmp_path, factor=1e9) == 1
    (record,) = map(json.loads, (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines())
    assert (record["system"], record["steps"], record["num"]) == ("tiny", 2, 20)
    assert record["ratio"] == pytest.approx(record["fid_first"] / record["fid_last"], rel=1e-3)
    assert record["fid_first"] != record["fid_last"]
    assert record["cpu_seconds"] > 0
    assert record["images_per_second"] > 0
    assert shlex.split(record["train"])[:3] == ["ganfuse", "train", "gan"]
    assert (tmp_path / "images" / "tiny.png").stat().st_size > 0


def test_a_failing_command_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe("Broken", "", steps=1, train="--set no_such_key=1", factor=2, model="gan", data="digits")
    monkeypatch.setattr(gallery, "read_recipes", lambda path: {"broken": recipe})
    arguments = ["broken", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out.jsonl"), "--device", "cpu"]
    assert gallery.main(arguments) == 1
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", list(RECIPES))
def test_recipes_are_settings_of_their_systems(name: str) -> None:
    recipe = RECIPES[name]
    words = shlex.split(recipe.train)
    assigned = parse_assignments([word for option, word in pairwise(words) if option == "--set"])
    info = model_info(recipe.model or name)
    sorted_ = sort_settings(assigned, trainer_keys=option_names(), game_keys=info.config)
    assert not sorted_.subjects
    assert recipe.factor > 1


def test_a_record_replaces_the_one_of_its_system(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    for steps, system, device in ((1, "gan", "a"), (2, "dcgan", "a"), (3, "gan", "b")):
        gallery.store({**ROW, "steps": steps, "system": system, "device": device}, path)
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["steps"], row["system"], row["device"]) for row in kept] == [(2, "dcgan", "a"), (3, "gan", "b")]


def test_page_has_the_numbers_the_commands_and_the_pictures() -> None:
    recipe = replace(RECIPES["dcgan"], title="U-Net GAN", note="Narrow.")
    text = gallery_page.page({"dcgan": recipe, "gan": RECIPES["gan"]}, [ROW], "gallery-cpu.jsonl")
    assert "| [U-Net GAN](#u-net-gan) | 1,000 | 1.5 | 300 | 30 | ×10 | ×5 |" in text
    assert "![Clothing by U-Net GAN](dcgan.png)" in text
    assert "    --set width=16 --set width=16" in text
    assert "--set 'a={4: 1}'" in text
    assert all(len(line) <= gallery_page.WIDTH for line in text.split("```bash")[1].splitlines())
    with pytest.raises(ValueError, match="no results"):
        gallery_page.page({"gan": RECIPES["gan"]}, [ROW], "gallery-cpu.jsonl")
    rows = [ROW, {**ROW, "system": "gan", "torch": "3"}]
    with pytest.raises(ValueError, match="several kinds of torch"):
        gallery_page.page({"dcgan": recipe, "gan": RECIPES["gan"]}, rows, "gallery-cpu.jsonl")


def test_the_page_in_docs_is_what_recipes_and_results_say() -> None:
    found = records.read(gallery.HERE / "results" / "gallery-cpu.jsonl")
    text = gallery_page.PAGE.read_text(encoding="utf-8")
    assert text == gallery_page.page(RECIPES, found, "gallery-cpu.jsonl")
    assert {row["system"]: row["steps"] for row in found} == {name: recipe.steps for name, recipe in RECIPES.items()}


def test_page_says_which_machine_trained_what() -> None:
    recipes = {name: RECIPES[name] for name in ("gan", "dcgan", "biggan")}
    rows = [{**ROW, "system": name} for name in recipes]
    assert "time. Measured on A, 1 threads, with PyTorch 2.\n" in gallery_page.page(recipes, rows, "a.jsonl")
    rows[1]["device"] = "B"
    text = gallery_page.page(recipes, rows, "a.jsonl").replace("\n", " ")
    assert "Measured with PyTorch 2: GAN, BigGAN on A, 1 threads; DCGAN on B. A machine scores" in text

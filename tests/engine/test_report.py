"""The page about a run."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
import yaml

from ganfuse.engine.curves import draw_curves
from ganfuse.engine.report import write_report
from tests.engine.test_resume import make_trainer

VOID = {"meta", "input", "img", "path", "use", "br", "rect"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("reported")
    make_trainer(out, sample_every=2, overwrite=True).fit()
    with open(out / "evaluations.jsonl", "w") as file:
        for step, fid in ((4, 90.5), (9, 41.25)):
            record = {"step": step, "scores": {"fid": fid}, "extractor": {"name": "classifier"}, "num_fake": 500}
            file.write(json.dumps(record) + "\n")
    return out


class Checker(HTMLParser):
    """Balanced tags; identifiers that occur once; no address outside the page."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.links += [attributes[key] for key in ("src", "href", "xlink:href") if key in attributes]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def test_page_is_whole_and_alone(run):
    page = write_report(run)
    assert page == run / "report.html"
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert len(checker.ids) == len(set(checker.ids))
    assert all(link.startswith(("data:", "#")) for link in checker.links)
    assert not re.search(r"url\(['\"]?https?:", text)


def test_page_says_what_happened(run):
    text = write_report(run).read_text()
    for part in (
        "adversarial on toy",
        "9 of 9",
        "72",  # images: 2 batches of 4 in each of 9 steps
        "step 9",
        "41.25",
        "classifier",
        "batch_size",
        "ganfuse",
        "real_logits",
        "learning rates",
    ):
        assert part in text
    assert text.count("<figure>") == 5
    assert text.count("<svg") == 5  # two turns, throughput, learning rates, fid


def test_half_written_lines_and_missing_parts(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["game"]["name"] = "<b>"
    (bare / "config.yaml").write_text(yaml.safe_dump(config))
    text = write_report(bare, tmp_path / "elsewhere" / "page.html").read_text()
    assert "&lt;b&gt; on toy" in text
    assert "nothing logged yet" in text
    (bare / "metrics.jsonl").write_text('{"step": 1, "images": 4, "losses": {"d/loss": null}}\n{"step": 2, "im')
    assert "<svg" in write_report(bare).read_text()


@pytest.mark.parametrize(("log_every", "logged"), [(20, None), (4, 8), (3, 9)])
def test_a_run_that_ends_between_two_lines_of_its_log(tmp_path, log_every, logged):
    make_trainer(tmp_path, log_every=log_every).fit()
    text = write_report(tmp_path).read_text()
    tiles = dict(re.findall(r"<div><b>([^<]*)</b><span class='quiet'>([^<]*)</span></div>", text))
    said = {key: value for value, key in tiles.items()}
    assert said["step"] == "9 of 9"
    assert said["newest checkpoint"] == "step 9"
    images = {key: value for key, value in said.items() if key.startswith("images seen")}
    assert images == {None: {}, 8: {"images seen, at step 8": "64"}, 9: {"images seen": "72"}}[logged]


def test_not_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the folder of a run"):
        write_report(tmp_path)


def test_long_curves_are_thinned():
    points = [(step, float(step % 7)) for step in range(50_000)]
    assert len(draw_curves("long", {"loss": points})) < 150_000


def test_of_very_many_curves_the_highest_are_named(recwarn):
    names = [f"weight{index}" for index in range(40)]
    figure = draw_curves("values", {name: [(1, 0.0), (2, float(index))] for index, name in enumerate(names)})
    # Text is drawn as glyphs, with the text itself in a comment.
    shown = [name for name in names if f"<!-- {name} -->" in figure]
    assert shown == names[-8:]
    assert "the highest of 40" in figure
    assert not recwarn.list


def test_what_watches_a_run_has_figures_of_its_own(run, tmp_path):
    watched = tmp_path / "watched"
    shutil.copytree(run, watched)
    keys = ["collapse/train_logit", "collapse/memorisation", "evaluation/fid", "generator/loss"]
    keys += [f"singular_values/discriminator.out/{index}" for index in range(3)]
    lines = [{"step": step, "losses": {key: float(step) for key in keys}} for step in (1, 2)]
    (watched / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(watched).read_text()
    texts = re.findall(r"<!-- ([^>]*) -->", page)
    for title in (
        "collapse monitor: logits",
        "collapse monitor: accuracy",
        "first singular values: discriminator",
        "fid",
    ):
        assert title in texts
    # Scores are shown once, with the number of images; of a weight's singular values the first.
    assert "evaluation" not in texts
    assert texts.count("out") == 1
    assert "<td>classifier</td><td>500</td>" in page


@pytest.mark.slow
def test_in_a_browser(run, tmp_path):
    """The slider shows one grid at a time: the last one first."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    page = write_report(run)
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    shown = subprocess.run(
        [browser, *arguments, f"--user-data-dir={tmp_path}", "--dump-dom", page.resolve().as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    figures = re.findall(r"<figure( hidden=\"\")?>", shown)
    assert [bool(hidden) for hidden in figures] == [True] * 4 + [False]

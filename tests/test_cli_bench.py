"""`ganfuse bench` as its users run it, on one small shape."""

import json

import pytest
from typer.testing import CliRunner

from ganfuse.cli import app

SMALL = ["bench", "--device", "cpu", "--threads", "1", "--shape", "bias_act:batch=2,channels=4,side=8"]


def ganfuse(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_from_measuring_to_a_page_and_a_comparison(tmp_path):
    rows_file, page = tmp_path / "new" / "a.jsonl", tmp_path / "pages" / "a.html"
    first = ganfuse(*SMALL, "--pass", "forward,double", "--json", rows_file)
    assert first.exit_code == 0, first.output
    assert "No GPU" in first.output
    assert "bias_act  own" in first.output
    lines = [json.loads(line) for line in rows_file.read_text().splitlines()]
    assert [line["kind"] for line in lines][:3] == ["header", "ceilings", "case"]
    rows = [line for line in lines if line["kind"] == "row"]
    assert {row["pass"] for row in rows} == {"forward", "double backward"}
    assert {row["provider"] for row in rows} == {"ganfuse", "reference", "F.leaky_relu"}
    assert all(row["status"] == "ok" and row["ms"] > 0 for row in rows)

    # Complete: nothing is measured again.
    again = ganfuse(*SMALL, "--pass", "forward,double", "--json", rows_file)
    assert again.exit_code == 0, again.output
    assert "1 of 1 are there" in again.output
    later = [json.loads(line) for line in rows_file.read_text().splitlines()]
    assert [line for line in later if line["kind"] == "row"] == rows

    pytest.importorskip("matplotlib")
    shown = ganfuse("bench", "--read", rows_file, "--html", page, "--compare", rows_file)
    assert shown.exit_code == 0, shown.output
    assert "6 same" in shown.output
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "src=" not in text
    assert 'href="http' not in text


def test_a_slower_run_fails_the_comparison(tmp_path):
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    assert ganfuse(*SMALL, "--pass", "forward", "--peers", "none", "--json", before).exit_code == 0
    lines = [json.loads(line) for line in before.read_text().splitlines()]
    for line in lines:
        if line["kind"] == "row":
            line["spread"] = 0.01
            line["ms"] = 10 * max(line["round_ms"])
            line["round_ms"] = [line["ms"]] * 5
    after.write_text("".join(json.dumps(line) + "\n" for line in lines))
    # The drift of a busy machine is not what is tested.
    calm = [line | {"spread": 0.01} if line["kind"] == "row" else line for line in map(json.loads, before.open())]
    before.write_text("".join(json.dumps(line) + "\n" for line in calm))
    slower = ganfuse("bench", "--read", after, "--compare", before)
    assert slower.exit_code == 1
    assert "* slower" in slower.output


def test_training_steps_from_measuring_to_a_page_and_a_comparison(tmp_path):
    rows_file, page, slower = tmp_path / "a.jsonl", tmp_path / "a.html", tmp_path / "slower.jsonl"
    steps = ["bench", "--train", "gan", "--device", "cpu", "--threads", "1", "--time", "0.01"]
    sizes = ["--set", "width=4", "--set", "batch_size=4"]
    first = ganfuse(*steps, *sizes, "--variants", "reference", "--json", rows_file)
    assert first.exit_code == 0, first.output
    assert "No GPU" in first.output
    assert "discriminator ×1" in first.output
    lines = [json.loads(line) for line in rows_file.read_text().splitlines()]
    rows = {line["provider"]: line for line in lines if line["kind"] == "row"}
    assert rows.keys() == {"default", "reference"}
    assert all(row["status"] == "ok" and row["images_per_second"] > 0 for row in rows.values())

    for line in lines:
        if line["kind"] == "row":
            line |= {"spread": 0.01, "round_ms": [line["ms"]] * 5}
    rows_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        if line.get("provider") == "default":
            line |= {"ms": 2 * line["ms"], "round_ms": [2 * line["ms"]] * 5}
    slower.write_text("".join(json.dumps(line) + "\n" for line in lines))
    compared = ganfuse("bench", "--read", slower, "--compare", rows_file)
    assert compared.exit_code == 1
    assert "* slower" in compared.output
    assert "1 slower, 1 same" in compared.output

    pytest.importorskip("matplotlib")
    shown = ganfuse("bench", "--read", rows_file, "--html", page)
    assert shown.exit_code == 0, shown.output
    assert page.read_text().count("<svg") == 1
    assert "src=" not in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bias_akt"], "unknown op 'bias_akt' (did you mean 'bias_act'?)"),
        (["--shapes", "sagan-64"], "unknown shapes 'sagan-64'"),
        (["--dtype", "int8"], "unknown dtype 'int8'"),
        (["--pass", "sideways"], "unknown pass 'sideways'"),
        (["--device", "abacus"], "--device 'abacus' is no device"),
        (["--read", __file__], "holds no JSON lines"),
        (["--variants", "bf16"], "--variants belongs to --train MODEL"),
        (["bias_act", "--train", "sagan"], "OP is for ops, and --train measures whole steps"),
        (["--train", "sagann"], "did you mean 'sagan'"),
        (["--train", "sagan", "--variants", "bf17"], "unknown feature 'bf17'"),
        (["--train", "sagan", "--set", "precision=bf16"], "--set precision: that is for variants"),
        (["--train", "sagan", "--set", "widht=4"], "did you mean 'width'"),
    ],
)
def test_what_it_does_not_know_is_named(arguments, message):
    result = ganfuse("bench", "--device", "cpu", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())

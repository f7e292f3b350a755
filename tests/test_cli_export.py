"""`ganfuse export`."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.interop import from_pretrained, hub, write_run
from ganfuse.interop.export import comparison, onnx_graphs
from tests.interop.tiny_models import tiny

needs_onnx = pytest.mark.skipif(
    bool(onnx_graphs.missing_packages(True)),
    reason=f"needs {', '.join(onnx_graphs.missing_packages(True))} (pip install 'ganfuse[export]')",
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["export", *map(str, arguments)])


def refused(*arguments: object, code: int = 2) -> str:
    result = run(*arguments)
    assert result.exit_code == code, result.output
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def gan(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "gan"
    write_run(tiny("gan"), out)
    return out


@needs_onnx
def test_onnx(gan, tmp_path):
    result = run(gan, "--to", "onnx", "--out", tmp_path / "g.onnx")
    assert result.exit_code == 0, result.output
    assert "latents, float32 (batch, 4), from N(0, 1)" in result.stdout
    assert "batches of 1, 3: largest difference" in result.stdout
    assert (tmp_path / "g.onnx").is_file()
    assert "already there; overwrite=True (--overwrite)" in refused(gan, "--to", "onnx", "--out", tmp_path / "g.onnx")
    again = run(gan, "--to", "onnx", "--out", tmp_path / "g.onnx", "--overwrite", "--no-check")
    assert again.exit_code == 0, again.output
    assert "checked  no" in again.stdout


def test_programs_are_named_after_their_networks(gan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(gan, "--to", "torch-export", "--batch-size", 4)
    assert result.exit_code == 0, result.output
    images = torch.export.load("generator.pt2").module()(torch.randn(4, 4))
    assert images.shape == (4, 1, 8, 8)


@pytest.mark.slow
def test_translators(tmp_path):
    write_run(tiny("cyclegan"), tmp_path / "run")
    options = ("--to", "torch-export", "--part", "generator_ba", "--size", "16x24", "--out", tmp_path / "ba.pt2")
    result = run(tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    assert "of 16×24" in result.stdout
    images = torch.rand(2, 1, 16, 24)
    with torch.no_grad():
        expected = tiny("cyclegan").generator_ba(images)
    torch.testing.assert_close(torch.export.load(tmp_path / "ba.pt2").module()(images), expected, rtol=0, atol=1e-5)


def test_hub(gan, tmp_path):
    options = ("--part", "generator", "--license", "mit")
    result = run(gan, "--to", "hub", "--out", tmp_path / "saved", *options)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "saved/config.json").read_text())["parts"] == ["generator"]
    assert "license: mit" in (tmp_path / "saved/README.md").read_text()
    saved = from_pretrained(tmp_path / "saved").generator.state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in tiny("gan").generator.state_dict().items())


def test_pushing(gan, tmp_path, monkeypatch):
    pushed = []

    def push(model, repo_id, **options):
        pushed.append((model, repo_id, options))
        return "https://hub/me/gan"

    import ganfuse.interop

    monkeypatch.setattr(ganfuse.interop, "push_to_hub", push)
    result = run(gan, "--to", "hub", "--out", tmp_path / "saved", "--push", "me/gan", "--private")
    assert result.exit_code == 0, result.output
    assert "https://hub/me/gan" in result.stdout
    assert pushed == [(tmp_path / "saved", "me/gan", {"private": True})]
    assert 'from_pretrained("me/gan")' in (tmp_path / "saved" / hub.CARD).read_text()
    run(gan, "--to", "hub", "--push", "me/gan")
    assert pushed[1][0] == gan


def test_what_does_not_fit_together(gan, tmp_path):
    assert "give the folder to write" in refused(gan, "--to", "hub")
    assert "--opset is an option of graphs" in refused(gan, "--to", "hub", "--out", tmp_path / "x", "--opset", 18)
    for option in (["--no-check"], ["--tolerance", 1e-3]):
        assert f"{option[0]} is an option of graphs" in refused(gan, "--to", "hub", "--out", tmp_path / "x", *option)
    assert "--push is an option of --to hub" in refused(gan, "--to", "onnx", "--push", "me/gan")
    assert "--opset is an option of --to onnx" in refused(gan, "--to", "torch-export", "--opset", 18)
    assert "--private: has a meaning only with --push" in refused(gan, "--to", "hub", "--out", "x", "--private")
    assert "a file holds one network" in refused(gan, "--to", "onnx", "--part", "generator", "--part", "x")
    assert "--size expects N or HxW" in refused(gan, "--to", "torch-export", "--size", "big")
    assert "truncation: gan's generator has none" in refused(gan, "--to", "torch-export", "--truncation", 0.5)
    assert "there is no checkpoint of step 7" in refused(gan, "--to", "torch-export", "--checkpoint", 7)
    assert "there is no such folder" in refused(tmp_path / "missing", "--to", "torch-export")
    assert not (tmp_path / "x").exists()


def test_what_is_missing_is_named(gan, monkeypatch):
    monkeypatch.setattr(onnx_graphs, "missing_packages", lambda check: ["onnxruntime"] if check else [])
    message = refused(gan, "--to", "onnx", "--out", "g.onnx")
    assert (
        "needs onnxruntime: pip install 'ganfuse[export]', or leave the check out (check=False, --no-check)" in message
    )


def test_what_differs_fails(gan, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "_difference", lambda result, expected: 0.3)
    message = refused(gan, "--to", "torch-export", "--out", tmp_path / "g.pt2", "--tolerance", 0.2, code=1)
    assert "the program differs from the network by 0.3 for a batch of 1, more than the tolerance of 0.2" in message
    assert list(tmp_path.iterdir()) == []

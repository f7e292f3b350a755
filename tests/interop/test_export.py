"""Networks as ONNX graphs and torch.export programs, run by what knows nothing of this package."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ganfuse.engine import AdversarialGame
from ganfuse.engine.layers import fuse_spectral_norms, spectral_norm
from ganfuse.engine.noise import Noise
from ganfuse.interop import ExportError, export_onnx, export_program, exportable_parts, patch
from ganfuse.interop.export import comparison, onnx_graphs
from ganfuse.interop.export.subject import Options, describe
from ganfuse.models import list_models
from tests.interop.tiny_models import CONFIGS, tiny

needs_onnx = pytest.mark.skipif(
    bool(onnx_graphs.missing_packages(True)),
    reason=f"needs {', '.join(onnx_graphs.missing_packages(True))} (pip install 'ganfuse[export]')",
)


def run_onnx(path: Path, **inputs: torch.Tensor) -> list[torch.Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(y) for y in session.run(None, {key: value.numpy() for key, value in inputs.items()})]


def latents(game, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Labels and latents as `sample` draws them."""
    noise = Noise(torch.Generator().manual_seed(seed))
    labels = game.draw_labels(n, noise)
    return game.draw_latents(n, noise), labels


def test_there_is_a_tiny_instance_of_every_model():
    assert sorted(CONFIGS) == list_models()


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize("name", list_models())
def test_every_model_as_onnx(name, tmp_path):
    game = tiny(name)
    report = export_onnx(game, tmp_path / "network.onnx")
    assert {difference.batch for difference in report.differences} == {1, 3}
    assert max(difference.error for difference in report.differences) < 1e-4
    assert report.path.is_file()
    assert report.bytes == report.path.stat().st_size


@pytest.mark.parametrize(
    ("name", "changes", "size", "expected"),
    [
        ("cyclegan", {}, None, "(batch, 1, height, width), in [-1, 1]; sides are multiples of 4"),
        ("cyclegan", {"channels": 3}, (24, 28), "(batch, 3, 24, 28), RGB order, in [-1, 1]"),
        ("dualgan", {}, None, "(batch, 3, 32, 32), RGB order, in [-1, 1]"),
        ("ugatit", {"light": False}, None, "(batch, 3, 32, 32), RGB order, in [-1, 1]"),
    ],
)
def test_the_size_that_a_translator_takes_is_told(name, changes, size, expected):
    subject = describe(tiny(name, **changes), None, Options(size=size))
    assert subject.inputs[0].meaning == f"images, float32 {expected}"
    assert subject.facts["input.images"] == subject.inputs[0].meaning


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gan-cls", "stylegan"])
def test_models_as_programs(name, tmp_path):
    report = export_program(tiny(name), tmp_path / "network.pt2")
    assert max(difference.error for difference in report.differences) < 1e-4


@needs_onnx
def test_onnx_draws_what_sample_draws(tmp_path):
    game = tiny("cgan")
    export_onnx(game, tmp_path / "g.onnx")
    z, labels = latents(game, 5)
    (images,) = run_onnx(tmp_path / "g.onnx", z=z, labels=labels)
    expected = game.sample(5, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


@needs_onnx
def test_what_stands_in_the_file(tmp_path):
    import onnx

    export_onnx(tiny("cgan"), tmp_path / "g.onnx", opset=20)
    model = onnx.load(tmp_path / "g.onnx")
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    sizes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert sizes == {"z": ["batch", 5], "labels": ["batch"], "images": ["batch", 1, 28, 28]}
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    assert types == {"z": onnx.TensorProto.FLOAT, "labels": onnx.TensorProto.INT64}
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["ganfuse.model"] == "cgan"
    assert facts["ganfuse.part"] == "generator"
    assert facts["ganfuse.input.labels"] == "classes, int64 (batch,), from 0 to 2"
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.slow
def test_a_program_runs_where_the_package_is_not(tmp_path):
    game = tiny("dcgan")
    export_program(game, tmp_path / "g.pt2")
    z, _ = latents(game, 3)
    torch.save(z, tmp_path / "z.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['ganfuse'] = None\n"
        "facts = {'ganfuse.json': ''}\n"
        "module = torch.export.load('g.pt2', extra_files=facts).module()\n"
        "torch.save(module(torch.load('z.pt')), 'images.pt')\n"
        "print(facts['ganfuse.json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["input.z"] == "latents, float32 (batch, 6), from N(0, 1)"
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "images.pt"), game.generator(z), rtol=0, atol=1e-5)


def test_a_translator_takes_any_size_that_the_network_takes(tmp_path):
    game = tiny("cyclegan")
    report = export_program(game, tmp_path / "ba.pt2", "generator_ba")
    assert [difference.size for difference in report.differences] == [(24, 24), (40, 52)]
    images = torch.rand(2, 1, 16, 36) * 2 - 1
    module = torch.export.load(tmp_path / "ba.pt2").module()
    torch.testing.assert_close(module(images), game.translate(images, "ba"), rtol=0, atol=1e-5)


@pytest.mark.slow
@needs_onnx
def test_so_does_its_graph(tmp_path):
    game = tiny("cyclegan")
    export_onnx(game, tmp_path / "ba.onnx", "generator_ba")
    images = torch.rand(2, 1, 16, 36) * 2 - 1
    (translated,) = run_onnx(tmp_path / "ba.onnx", images=images)
    torch.testing.assert_close(translated, game.translate(images, "ba"), rtol=0, atol=1e-5)


def test_sizes_can_be_fixed(tmp_path):
    game = tiny("cyclegan")
    report = export_program(game, tmp_path / "ab.pt2", batch_size=1, size=(16, 24))
    assert report.subject.open_sizes == {}
    module = torch.export.load(tmp_path / "ab.pt2").module()
    images = torch.rand(1, 1, 16, 24)
    torch.testing.assert_close(module(images), game.translate(images), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="size: cyclegan takes images whose sides are multiples of 4"):
        export_program(game, tmp_path / "x.pt2", size=(16, 18))


@pytest.mark.slow
def test_spectral_norms_are_settled_in_a_copy(tmp_path):
    game = tiny("sagan")
    before = {key: value.clone() for key, value in game.state_dict().items()}
    export_program(game, tmp_path / "g.pt2", check=False)
    names = torch.export.load(tmp_path / "g.pt2").state_dict
    assert not any("_orig" in name or name.endswith("_u") for name in names)
    assert any("_orig" in name for name in before)
    after = game.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
@needs_onnx
def test_style_models_by_their_parts(tmp_path):
    game = tiny("stylegan2", num_classes=None)
    options = {"truncation": 0.6, "truncation_cutoff": 3}
    for part in exportable_parts(game):
        export_onnx(game, tmp_path / f"{part}.onnx", part, **({} if part == "synthesis" else options))
    z, _ = latents(game, 3)
    (whole,) = run_onnx(tmp_path / "generator.onnx", z=z)
    (ws,) = run_onnx(tmp_path / "mapping.onnx", z=z)
    (rendered,) = run_onnx(tmp_path / "synthesis.onnx", ws=ws)
    expected = game.sample(3, rng=torch.Generator().manual_seed(0), **options)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(rendered, expected, rtol=0, atol=1e-4)
    plain = game.sample(3, rng=torch.Generator().manual_seed(0))
    assert (plain - expected).abs().max() > 1e-2
    export_program(game, tmp_path / "without.pt2", noise="none")
    images = torch.export.load(tmp_path / "without.pt2").module()(z)
    silent = game.sample(3, rng=torch.Generator().manual_seed(0), noise_mode="none")
    torch.testing.assert_close(images, silent, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_networks_that_still_grow(tmp_path):
    game = tiny("progan")
    game.growth.load_state_dict({"position": torch.tensor([1.0, 0.25])})
    export_program(game, tmp_path / "g.pt2")
    z, _ = latents(game, 3)
    images = torch.export.load(tmp_path / "g.pt2").module()(z)
    assert images.shape[2:] == (16, 16)
    torch.testing.assert_close(images, game.sample(3, rng=torch.Generator().manual_seed(0)), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_statistics_of_truncated_latents_are_built_in(tmp_path):
    game = tiny("biggan")
    before = {key: value.clone() for key, value in game.state_dict().items()}
    report = export_program(game, tmp_path / "g.pt2", truncation=0.5, standing_statistics=2)
    assert report.subject.facts["input.z"].endswith("truncated at 0.5")
    module = torch.export.load(tmp_path / "g.pt2").module()
    with game.truncated(0.5), game.standing_statistics(2):
        z, labels = latents(game, 3)
        with torch.no_grad():
            expected = game.generator(z, labels)
    torch.testing.assert_close(module(z, labels), expected, rtol=0, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in game.state_dict().items())


def test_ones_own_networks(tmp_path):
    generator, discriminator = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Unflatten(1, (1, 4, 4))), nn.Flatten()
    game = AdversarialGame(generator, discriminator, latent_dim=4)
    path = tmp_path / "own[4x4].pt2"
    report = export_program(game, path)
    assert report.differences is not None
    assert report.bytes == path.stat().st_size
    torch.export.load(path).module()(torch.randn(7, 4))


def test_spectral_norms_that_are_computed_together(tmp_path):
    for norm, fuse in ((spectral_norm, fuse_spectral_norms), (nn.utils.spectral_norm, partial(patch, verbose=False))):
        generator = nn.Sequential(norm(nn.Linear(4, 16)), nn.Tanh(), nn.Unflatten(1, (1, 4, 4)))
        fuse(generator)
        hooks = len(generator._forward_pre_hooks)
        report = export_program(
            AdversarialGame(generator, nn.Flatten(), latent_dim=4), tmp_path / "g.pt2", overwrite=True
        )
        assert report.differences is not None
        assert len(generator._forward_pre_hooks) == hooks > 0


class Unsteady(nn.Module):
    """Computes something else whenever it is called."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, z):
        self.calls += 1
        return z.view(-1, 1, 2, 2) * self.weight * self.calls


def test_what_differs_is_not_written(tmp_path):
    game = AdversarialGame(Unsteady(), nn.Flatten(), latent_dim=4)
    with pytest.raises(ExportError, match=r"the program differs from the network by .* for a batch of \d"):
        export_program(game, tmp_path / "g.pt2")
    assert list(tmp_path.iterdir()) == []
    assert export_program(game, tmp_path / "g.pt2", check=False).differences is None


class Hardly(nn.Module):
    """Divides by the spread of what hardly varies, as instance norms do."""

    def __init__(self, spread):
        super().__init__()
        self.latent_dim = 4
        self.spread = nn.Parameter(torch.tensor(spread))

    def forward(self, z):
        return ((1.0 + self.spread * z) - 1.0).view(-1, 1, 2, 2) / self.spread


@pytest.mark.parametrize(("spread", "said"), [(1e-5, True), (1.0, False)])
def test_differences_of_rounding_are_said_to_be(tmp_path, monkeypatch, spread, said):
    ours = comparison._difference
    monkeypatch.setattr(comparison, "_difference", lambda a, b: ours(a, b) if b.dtype == torch.float64 else 0.3)
    with pytest.raises(ExportError, match=r"differs from the network by 0\.3") as caught:
        export_program(AdversarialGame(Hardly(spread), nn.Flatten()), tmp_path / "g.pt2")
    assert ("rounding alone moves the network's own results by" in str(caught.value)) == said


class FixedBatch(Unsteady):
    def forward(self, z):
        return z.view(len(z), 1, 2, 2) * self.weight


def test_what_cannot_be_exported_says_so(tmp_path):
    game = AdversarialGame(FixedBatch(), nn.Flatten(), latent_dim=4)
    with pytest.raises(ExportError, match=r"torch.export .* cannot export generator: .*batch"):
        export_program(game, tmp_path / "g.pt2")
    export_program(game, tmp_path / "g.pt2", batch_size=2)


def test_a_network_that_gives_nothing_finite(tmp_path):
    game = tiny("gan")
    with torch.no_grad():
        next(game.generator.parameters()).fill_(float("nan"))
    with pytest.raises(ExportError, match=r"the network's own results .* are not finite"):
        export_program(game, tmp_path / "g.pt2")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gan", {"part": "discriminator"}, "part: gan exports 'generator', got 'discriminator'; discriminators serve"),
        ("cyclegan", {"part": "generator"}, "part: cyclegan exports 'generator_ab', 'generator_ba', got 'generator'"),
        ("gan", {"truncation": 0.5}, "truncation: gan's generator has none"),
        ("stylegan2", {"truncation_cutoff": 2}, "truncation_cutoff: has a meaning only with"),
        ("stylegan2", {"noise": "random"}, "noise: expected 'const' or 'none', got 'random'"),
        ("gan", {"noise": "none"}, "noise: gan's generator has none"),
        ("gan", {"standing_statistics": 2}, "standing_statistics: gan does not collect statistics"),
        ("gan", {"size": (8, 8)}, "size: gan's generator takes no images"),
        ("gan", {"batch_size": 0}, "batch_size: expected a positive number"),
    ],
)
def test_errors(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        export_program(tiny(name), tmp_path / "g.pt2", **options)


def test_errors_of_files(tmp_path, monkeypatch):
    game = tiny("gan")
    with pytest.raises(ValueError, match=r"path: a program's file ends in \.pt2, got 'g\.onnx'"):
        export_program(game, tmp_path / "g.onnx")
    with pytest.raises(ValueError, match=r"path: an ONNX file ends in \.onnx, got 'g\.pt2'"):
        export_onnx(game, tmp_path / "g.pt2")
    with pytest.raises(ValueError, match="opset: expected a whole number from 18 on, got 9"):
        export_onnx(game, tmp_path / "g.onnx", opset=9)
    (tmp_path / "g.pt2").write_text("mine")
    with pytest.raises(FileExistsError, match=r"already there; overwrite=True"):
        export_program(game, tmp_path / "g.pt2")
    export_program(game, tmp_path / "g.pt2", overwrite=True)
    with pytest.raises(ValueError, match=r"game: expected it in float32 \(game.float\(\)\), .* is torch.float64"):
        export_program(tiny("gan").double(), tmp_path / "h.pt2")
    monkeypatch.setattr(onnx_graphs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="ONNX export needs onnx and onnxscript and onnxruntime"):
        export_onnx(game, tmp_path / "g.onnx")


@pytest.mark.slow
def test_exports_do_not_depend_on_the_backend(tmp_path):
    # The recorded form is that of the definition; the check compares it with what runs here by itself.
    game = tiny("stylegan2", num_classes=None, resolution=8)
    report = export_program(game, tmp_path / "g.pt2")
    operators = {str(node.target) for node in torch.export.load(tmp_path / "g.pt2").graph.nodes}
    assert not any("ganfuse" in name for name in operators)
    assert np.isfinite(max(difference.error for difference in report.differences))

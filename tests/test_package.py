"""The package as its users get it: light to import, importable without Triton or a GPU, complete when installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _python(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_takes_less_than_a_second_and_a_half_beyond_torch():
    code = """
import time, torch
start = time.perf_counter()
import ganfuse
from ganfuse import SelfAttention2d
from ganfuse.engine import Trainer
from ganfuse.models import list_models
print(time.perf_counter() - start)
"""
    assert min(float(_python(code)) for _ in range(2)) < 1.5


def test_import_takes_along_nothing_heavy():
    heavy = ("triton", "torch._dynamo", "torch._inductor", "PIL", "rich", "tensorboard", "pynvml", "sklearn")
    code = f"""
import sys, torch
before = set(sys.modules)
import ganfuse
from ganfuse import SelfAttention2d
print(sorted(m for m in set(sys.modules) - before if m.startswith({heavy!r})))
"""
    assert _python(code) == "[]"


def test_without_triton_the_layers_work_and_asking_for_it_says_why():
    code = """
import sys, importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "triton" else find(name, *rest)
sys.modules["triton"] = None
sys.modules["pynvml"] = None
import torch, ganfuse
layer = ganfuse.SelfAttention2d(8)
layer(torch.randn(2, 8, 4, 4)).sum().backward()
try:
    with ganfuse.use_backend("triton"):
        layer(torch.randn(2, 8, 4, 4))
except ganfuse.BackendUnavailableError as error:
    print(error)
"""
    assert "Triton is not installed" in _python(code, GANFUSE_BACKEND="auto")


def test_public_names_are_there():
    import ganfuse

    for name in ganfuse.__all__:
        assert getattr(ganfuse, name) is not None
    assert set(ganfuse.__all__) <= set(dir(ganfuse))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ganfuse.nonsense


def test_readme_examples_run():
    import torch

    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:]
    codes = [block.split("```")[0] for block in blocks]
    assert len(codes) == 2
    first = codes[0].replace("8, 256, 32, 32", "2, 256, 8, 8")
    names: dict[str, object] = {}
    exec(first, names)
    assert names["x"].grad.isfinite().all()
    names = {name: torch.randn(1, 8, 4, 4) for name in ("query", "key", "value")}
    exec(codes[1], names)
    assert names["y"].shape == (1, 8, 4, 4)


@pytest.mark.slow
def test_a_wheel_works_outside_the_checkout(tmp_path):
    pytest.importorskip("build")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("ganfuse-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "ganfuse/py.typed",
        "ganfuse/engine/data/digits.npz",
        "ganfuse/engine/data/digits.txt",
        "ganfuse/kernels/feature_attention/tiles.json",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]
    target = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
    )
    code = """
import ganfuse, sys
assert sys.argv[1] in ganfuse.__file__, ganfuse.__file__
from ganfuse.engine.data import open_dataset
from ganfuse.models import create
from ganfuse.kernels.feature_attention import configs
print(len(open_dataset("digits", resolution=32)), configs.choose("forward", "sm90", 2, 32, 128).num_warps > 0)
create("sagan", resolution=32, width=4, num_classes=10)
"""
    environment = {**os.environ, "PYTHONPATH": str(target)}
    result = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["1797", "True"]

"""Choosing the backend: precedence, errors that say why, logged fallbacks."""

import logging
import os
import re
import subprocess
import sys

import pytest
import torch

from ganfuse.kernels import BackendUnavailableError, current_backend, feature_attention, use_backend
from ganfuse.kernels import backend as module
from ganfuse.kernels.backend import INTERPRETED, resolve_backend, triton_unavailable

CPU, GPU = torch.device("cpu"), torch.device("cuda")
plain_process = pytest.mark.skipif(INTERPRETED, reason="Triton runs anywhere under TRITON_INTERPRET=1")


def _resolve(requested=None, device=CPU, triton=None, eager=None):
    return resolve_backend("an_op", requested, device, triton=lambda: triton, eager=lambda: eager)


def test_context_manager_restores():
    use_backend("auto")
    with use_backend("reference") as context:
        assert isinstance(context, use_backend)
        assert current_backend() == "reference"
        with use_backend("eager"):
            assert current_backend() == "eager"
        assert current_backend() == "reference"
    assert current_backend() == "auto"


def test_context_manager_restores_after_an_error():
    use_backend("eager")
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert current_backend() == "eager"


def test_plain_call_lasts():
    use_backend("reference")
    assert current_backend() == "reference"
    use_backend("auto")
    assert current_backend() == "auto"


@pytest.mark.parametrize("name", ["refrence", "Triton", "", "cuda", None, 3])
def test_unknown_names(name):
    use_backend("eager")
    with pytest.raises(ValueError, match=r"^backend must be one of 'auto', 'reference', 'eager', 'triton', got") as e:
        use_backend(name)
    assert current_backend() == "eager"
    if name == "refrence":
        assert e.match("did you mean 'reference'")


def test_strength_of_the_choices():
    use_backend("reference")
    assert _resolve() == "reference"
    assert _resolve("eager") == "eager"
    assert _resolve("auto") == "eager"
    with pytest.raises(ValueError, match=r"got 'egaer'.*did you mean 'eager'"):
        _resolve("egaer")


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (" REFERENCE ", "reference"),
        ("", "auto"),
        ("tritn", "GANFUSE_BACKEND must be one of 'auto', .*, got 'tritn' \\(did you mean 'triton'\\?\\)"),
    ],
)
def test_environment_variable(value, printed):
    code = "from ganfuse.kernels.backend import current_backend; print(current_backend())"
    environment = {**os.environ, "GANFUSE_BACKEND": value}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert re.search(printed, done.stdout + done.stderr)
    assert (done.returncode == 0) == (printed in ("reference", "auto"))


@plain_process
def test_triton_without_a_gpu_says_why():
    x = torch.zeros(1, 2, 3, 3)
    with pytest.raises(
        BackendUnavailableError, match=r"feature_attention: .*'triton' cannot run here: .*GPU tensor.*cpu"
    ):
        feature_attention(x, x, x, backend="triton")
    with use_backend("triton"), pytest.raises(BackendUnavailableError, match="TRITON_INTERPRET=1"):
        feature_attention(x, x, x)
    assert issubclass(BackendUnavailableError, ValueError)


@plain_process
def test_why_triton_may_be_missing(monkeypatch):
    monkeypatch.setattr(module, "_COMPILER_MISSING", True)
    assert "C compiler" in triton_unavailable(GPU)
    monkeypatch.setattr(module, "_TRITON_MISSING", True)
    assert "not installed" in triton_unavailable(GPU)
    with pytest.raises(BackendUnavailableError, match="not installed"):
        _resolve("triton", GPU)


@pytest.mark.interpreter
def test_interpreted_triton_runs_on_the_cpu():
    assert triton_unavailable(CPU) is None
    assert _resolve("triton") == "triton"
    with pytest.raises(BackendUnavailableError, match="an_op: backend 'triton' cannot run here: too large"):
        _resolve("triton", triton="too large")


def test_auto_on_the_cpu():
    assert _resolve("auto") == "eager"
    assert _resolve("auto", eager="not for this") == "reference"
    assert resolve_backend("an_op", "auto", CPU, triton=lambda: None) == "reference"
    with pytest.raises(BackendUnavailableError, match="an_op: backend 'eager' cannot run here: not for this"):
        _resolve("eager", eager="not for this")
    with pytest.raises(BackendUnavailableError, match="no eager form"):
        resolve_backend("an_op", "eager", CPU, triton=lambda: None)


def test_auto_on_a_gpu_falls_back_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(module, "_already_logged", set())
    monkeypatch.setattr(module, "triton_unavailable", lambda device: None)
    with caplog.at_level(logging.WARNING, "ganfuse"):
        assert _resolve("auto", GPU) == "triton"
        assert not caplog.records
        for _ in range(3):
            assert _resolve("auto", GPU, triton="float64", eager="CPU only") == "reference"
        assert [r.getMessage() for r in caplog.records] == [
            "an_op: falling back to plain PyTorch on a GPU tensor: float64"
        ]
        assert _resolve("auto", GPU, triton="another reason", eager="CPU only") == "reference"
        assert len(caplog.records) == 2


def test_auto_never_fails_where_triton_cannot_run(monkeypatch, caplog):
    monkeypatch.setattr(module, "_already_logged", set())
    monkeypatch.setattr(module, "triton_unavailable", lambda device: "no compiler")
    with caplog.at_level(logging.WARNING, "ganfuse"):
        assert _resolve("auto", GPU, eager="CPU only") == "reference"
    assert "no compiler" in caplog.text


def test_falling_back_on_the_cpu_is_no_news(caplog):
    with caplog.at_level(logging.DEBUG, "ganfuse"):
        _resolve("auto", triton="anything")
    assert not caplog.records


def test_backend_is_fixed_at_the_forward(monkeypatch):
    """Backwards of a call keep its backend, whatever was chosen since."""
    from ganfuse.kernels.feature_attention import eager

    calls = []
    backward = eager.IMPLEMENTATION.backward
    watched = eager.IMPLEMENTATION.__class__(
        *(
            (lambda *a: calls.append(1) or backward(*a)) if name == "backward" else value
            for name, value in vars(eager.IMPLEMENTATION).items()
        )
    )
    from ganfuse.kernels.feature_attention import op

    monkeypatch.setitem(op._attention.implementations, "eager", watched)
    x = torch.randn(1, 2, 3, 3, requires_grad=True)
    with use_backend("eager"):
        total = feature_attention(x, x, x).sum()
    with use_backend("reference"):
        total.backward()
    assert calls == [1]


def test_export_takes_the_reference(monkeypatch):
    monkeypatch.setattr(module, "exporting", lambda: True)
    assert _resolve("eager") == _resolve("triton", GPU) == _resolve() == "reference"


def test_what_is_recorded_for_export_takes_the_reference():
    with module.recording_export():
        assert _resolve("eager") == _resolve() == "reference"
    assert not module.exporting()

import argparse
import collections
import io
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ganfuse.interop import load, sources
from ganfuse.interop.unpickling import read_pickle
from tests.interop.plain_networks import drawn
from tests.interop.small_checkpoints import SMALL
from tests.interop.test_cyclegan_pix2pix import discriminator_layout

SOURCE = "cyclegan-pix2pix"


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.fixture
def state():
    return drawn(discriminator_layout(4, 2))


def _same(module, state):
    torch.testing.assert_close(module.get_parameter("input_conv.weight").detach(), state["model.0.weight"])


def test_files(tmp_path, state):
    torch.save(state, tmp_path / "D.pth")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "wrapped.pt")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "D.safetensors")
    for name in ("D.pth", "wrapped.pt", "old.pth", "D.safetensors"):
        _same(load(SOURCE, tmp_path / name), state)
        _same(load(SOURCE, str(tmp_path / name)), state)


def test_half_precision_becomes_float32(state):
    module = load(SOURCE, {key: value.half() for key, value in state.items()})
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_tensors_of_a_model_in_training(device):
    # Computed with on the way, and compared with filters.
    given = SMALL["stylegan1-rosinality", "generator"].state()
    given = {key: value.to(device).requires_grad_() for key, value in given.items()}
    module = load("stylegan1-rosinality", given)
    assert {str(value.device) for value in module.state_dict().values()} == {"cpu"}
    assert all(value.is_leaf for value in module.state_dict().values())


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_a_malicious_file_runs_nothing(tmp_path, state, name):
    marker = tmp_path / "executed"
    poisoned = {**state, "model.0.weight": Malicious(marker)}
    if name.endswith(".pkl"):
        (tmp_path / name).write_bytes(pickle.dumps({"G_ema": poisoned}))
    else:
        torch.save(poisoned, tmp_path / name)
    with pytest.raises(ValueError, match="nothing in it was executed"):
        load(SOURCE, tmp_path / name)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists(), "the test's own file is harmless"


def test_a_malicious_storage_runs_nothing(tmp_path):
    marker = tmp_path / "executed"
    inner = io.BytesIO()
    torch.save(Malicious(marker), inner)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    (tmp_path / "G.pkl").write_bytes(pickle.dumps({"G_ema": Storage()}))
    with pytest.raises(ValueError, match="nothing in it was executed"):
        read_pickle(tmp_path / "G.pkl")
    assert not marker.exists()


def test_settings_and_scores_beside_the_weights(tmp_path, state, monkeypatch):
    class BaseConfig:
        """pytorch_GAN_zoo's."""

        def __setstate__(self, given):
            raise AssertionError("the original class is not used")

    BaseConfig.__module__, BaseConfig.__qualname__ = "models.utils.config", "BaseConfig"
    for name in ("models", "models.utils", "models.utils.config"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["models.utils.config"].BaseConfig = BaseConfig
    config = BaseConfig()
    config.alpha = 0.5
    scores = {"best_fid": np.float64(3.5), "step": np.int64(7), "loss": np.float32(0.1)}
    torch.save({"state_dict": state, "args": argparse.Namespace(a=1), "config": config, **scores}, tmp_path / "D.pth")
    for old in (False, True):
        if old:
            torch.save(
                {"state_dict": state, "config": config, **scores}, tmp_path / "D.pth",
                _use_new_zipfile_serialization=False,
            )  # fmt: skip
        _same(load(SOURCE, tmp_path / "D.pth"), state)
    # They are allowed while a checkpoint is read, and not beyond.
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "D.pth", weights_only=True)


@pytest.fixture
def nvidia_modules(monkeypatch):
    """What NVIDIA's pickles name, with functions that must never be called."""
    persistence, easy = types.ModuleType("torch_utils.persistence"), types.ModuleType("dnnlib.util")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the original unpickles by executing the source in meta")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj

    class EasyDict(dict):
        pass

    EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
    easy.EasyDict = EasyDict
    for name, module in (
        ("torch_utils", types.ModuleType("torch_utils")), ("torch_utils.persistence", persistence),
        ("dnnlib", types.ModuleType("dnnlib")), ("dnnlib.util", easy),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, module)
    return persistence, easy


def test_nvidia_pickles_are_read_without_their_source(tmp_path, nvidia_modules):
    persistence, easy = nvidia_modules

    class Network:
        """Pickled as the codebase pickles its networks."""

        def __init__(self, parameters, buffers, modules):
            self.state = {"_parameters": parameters, "_buffers": buffers, "_modules": modules, "training": False}

        def __reduce__(self):
            meta = easy.EasyDict(
                type="class", version=6, class_name="Any", module_src="raise SystemExit", state=self.state
            )
            return persistence._reconstruct_persistent_obj, (meta,)

    weight, average = torch.nn.Parameter(torch.randn(3, 2)), torch.randn(5)
    ordered = collections.OrderedDict
    inner = Network(ordered(weight=weight, bias=None), ordered(), ordered())
    outer = Network(ordered(), ordered(w_avg=average), ordered(fc0=inner))
    (tmp_path / "G.pkl").write_bytes(pickle.dumps({"G": None, "G_ema": outer, "training_set_kwargs": easy.EasyDict()}))
    found = read_pickle(tmp_path / "G.pkl")
    assert set(found) == {"G_ema"}
    assert set(found["G_ema"]) == {"w_avg", "fc0.weight"}
    torch.testing.assert_close(found["G_ema"]["fc0.weight"], weight.detach())
    torch.testing.assert_close(found["G_ema"]["w_avg"], average)


def test_what_is_no_checkpoint(tmp_path, state):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(SOURCE, tmp_path / "none.pth")
    (tmp_path / "damaged.pth").write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(ValueError, match="damaged"):
        load(SOURCE, tmp_path / "damaged.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        load(SOURCE, tmp_path / "damaged.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds a list, expected a dict of tensors"):
        load(SOURCE, tmp_path / "list.pth")
    with pytest.raises(ValueError, match="these are no tensors: epoch"):
        load(SOURCE, {**state, "epoch": 3})
    with pytest.raises(ValueError, match="it is empty"):
        load(SOURCE, {})


def test_unknown_sources():
    assert "biggan-pytorch" in sources()
    with pytest.raises(ValueError, match="did you mean 'biggan-pytorch'"):
        load("biggan-pytorhc", {})

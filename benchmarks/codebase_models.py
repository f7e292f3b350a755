"""Small networks of public codebases, built by their own code from a checkout of it: what is measured once patched.

Modules that only their training or data code needs, and that are not installed, are replaced by empty ones.
"""

import contextlib
import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["CODEBASES", "Codebase", "Network"]


class Network(NamedTuple):
    """A network and what it is called with.

    Attributes:
        module: in training mode.
        inputs: the first is what a penalty differentiates for.
        result: which of what it returns counts.
    """

    name: str
    module: nn.Module
    inputs: Sequence[Tensor]
    result: Callable[[Any], Tensor] = lambda result: result


class Codebase(NamedTuple):
    """How to build the networks of a codebase.

    Attributes:
        build: from the checkout's folder.
        double: whether its networks can compute in float64.
        repository: whose checkout the path has to be.
    """

    build: Callable[[Path], list[Network]]
    double: bool
    repository: str


class _Outputs(nn.Module):
    """A network of which one of several results counts."""

    def __init__(self, network: nn.Module, key: str) -> None:
        super().__init__()
        self.network, self.key = network, key

    def forward(self, *inputs: Tensor) -> Tensor:
        result: Tensor = self.network(*inputs)[self.key]
        return result


def _images(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side) * 2 - 1


def _stand_in(name: str, **contents: Any) -> None:
    """An empty module of that name, unless there is one."""
    if importlib.util.find_spec(name) is None:
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module


def _biggan(path: Path) -> list[Network]:
    sys.path.insert(0, str(path))
    code = importlib.import_module("BigGAN")
    # Their initialisation is orthogonal, which takes longer than all that is measured here.
    common = {"resolution": 64, "n_classes": 10, "skip_init": True, "no_optim": True}
    generator = code.Generator(
        G_ch=32, dim_z=100, G_attn="32", G_shared=True, shared_dim=128, hier=True, **common
    )  # fmt: skip
    discriminator = code.Discriminator(D_ch=32, D_attn="32", resolution=64, n_classes=10, skip_init=True)
    labels = torch.arange(8) % 10
    return [
        Network("generator", generator, (torch.randn(8, 100), torch.randn(8, 128))),
        Network("discriminator", discriminator, (_images(8, 64), labels)),
    ]


def _studiogan(path: Path) -> list[Network]:
    sys.path.insert(0, str(path / "src"))
    utils = importlib.import_module("utils")
    # Theirs imports what draws figures and reads data sets.
    misc = ModuleType("utils.misc")
    misc.dummy_context_mgr = contextlib.nullcontext  # type: ignore[attr-defined]
    sys.modules["utils.misc"] = utils.misc = misc  # type: ignore[attr-defined]
    ops, code = importlib.import_module("utils.ops"), importlib.import_module("models.big_resnet")
    both = {"conv2d": ops.snconv2d, "linear": ops.snlinear, "embedding": ops.sn_embedding, "act_fn": nn.ReLU(True)}
    layers = SimpleNamespace(
        g_bn=ops.ConditionalBatchNorm2d, **{f"{side}_{name}": layer for side in "gd" for name, layer in both.items()}
    )
    common = {"img_size": 64, "apply_attn": True, "num_classes": 10, "mixed_precision": False, "MODULES": layers}
    common["MODEL"] = SimpleNamespace(info_type="N/A", g_info_injection="N/A")
    generator = code.Generator(
        z_dim=100, g_shared_dim=128, g_conv_dim=32, attn_g_loc=[3], g_cond_mtd="cBN", g_init="N02", g_depth="N/A",
        **common,
    )  # fmt: skip
    discriminator = code.Discriminator(
        d_conv_dim=32, apply_d_sn=True, attn_d_loc=[1], d_cond_mtd="PD", aux_cls_type="W/O", d_embed_dim="N/A",
        normalize_d_embed=False, d_init="N02", d_depth="N/A", **common,
    )  # fmt: skip
    labels = torch.arange(8) % 10
    return [
        Network("generator", generator, (torch.randn(8, 100), labels)),
        Network("discriminator", _Outputs(discriminator, "adv_output"), (_images(8, 64), labels)),
    ]


def _ugatit(path: Path) -> list[Network]:
    sys.path.insert(0, str(path))
    code = importlib.import_module("networks")
    generator = code.ResnetGenerator(input_nc=3, output_nc=3, ngf=32, n_blocks=4, img_size=128, light=True)
    discriminator = code.Discriminator(input_nc=3, ndf=32, n_layers=7)
    return [
        Network("generator", generator, (_images(1, 128),), lambda result: result[0]),
        Network("discriminator", discriminator, (_images(1, 128),), lambda result: result[0]),
    ]


def _cyclegan(path: Path) -> list[Network]:
    # Without their __init__, which looks for options of the command line.
    package = ModuleType("models")
    package.__path__ = [str(path / "models")]
    sys.modules["models"] = package
    code = importlib.import_module("models.networks")
    norm = functools.partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    # CUT's copy of these networks can blur; its plain form is CycleGAN's.
    plain = {"no_antialias": True, "no_antialias_up": True}
    known = code.ResnetGenerator.__init__.__code__.co_varnames
    options = {name: value for name, value in plain.items() if name in known}
    generator = code.ResnetGenerator(3, 3, ngf=32, norm_layer=norm, n_blocks=6, **options)
    options.pop("no_antialias_up", None)
    discriminator = code.NLayerDiscriminator(3, ndf=32, norm_layer=norm, **options)
    return [
        Network("generator", generator, (_images(1, 128),)),
        Network("discriminator", discriminator, (_images(1, 128),)),
    ]


def _style_networks(path: Path, module: str, resolution: int = 64, batch: int = 4, **more: Any) -> list[Network]:
    sys.path.insert(0, str(path))
    _stand_in("requests")
    _stand_in("pkg_resources", parse_version=lambda text: tuple(map(int, re.findall(r"\d+", text)[:3])))
    code = importlib.import_module(module)
    size = {"channel_base": 4096, "channel_max": 128, **more}
    options = {"synthesis_kwargs": size} if module == "training.networks" else size
    generator = code.Generator(
        z_dim=64, c_dim=0, w_dim=64, img_resolution=resolution, img_channels=3, mapping_kwargs={"num_layers": 2},
        **options,
    )  # fmt: skip
    synthesis = generator.synthesis
    networks = [Network("synthesis", synthesis, (torch.randn(batch, synthesis.num_ws, 64),))]
    if hasattr(code, "Discriminator"):
        discriminator = code.Discriminator(c_dim=0, img_resolution=resolution, img_channels=3, **size)
        networks.append(Network("discriminator", discriminator, (_images(batch, resolution), torch.zeros(batch, 0))))
    for layer in synthesis.modules():
        # Equality needs the same noise in both.
        if hasattr(layer, "use_noise"):
            layer.use_noise = False
    return networks


CODEBASES = {
    "biggan-pytorch": Codebase(_biggan, True, "ajbrock/BigGAN-PyTorch"),
    "studiogan": Codebase(_studiogan, True, "POSTECH-CVLab/PyTorch-StudioGAN"),
    "ugatit": Codebase(_ugatit, True, "znxlwm/UGATIT-pytorch"),
    "cyclegan": Codebase(
        _cyclegan, True, "junyanz/pytorch-CycleGAN-and-pix2pix (or taesungp/contrastive-unpaired-translation)"
    ),
    "stylegan2-ada": Codebase(
        functools.partial(_style_networks, module="training.networks"), False, "NVlabs/stylegan2-ada-pytorch"
    ),
    "stylegan2": Codebase(
        functools.partial(_style_networks, module="training.networks_stylegan2"), False, "NVlabs/stylegan3"
    ),
    "stylegan3": Codebase(
        # Their alias-free layers take seconds for a small image on a CPU.
        functools.partial(
            _style_networks, module="training.networks_stylegan3", resolution=32, batch=2, num_layers=6, channel_max=32
        ),
        False,
        "NVlabs/stylegan3",
    ),
}

"""Which ops are measured, and at which shapes: those of published networks, by name."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from ganfuse.bench import attention, convolutions, norms, spectral_norm
from ganfuse.bench.subject import Case, Draw, Site, Sizes, Subject

OPS: dict[str, tuple[Callable[[Sizes, Draw], Subject], Sizes]] = {
    "feature_attention": (attention.attention, attention.SIZES),
    "batch_norm_act": (norms.batch_norm, norms.SIZES["batch_norm_act"]),
    "instance_norm_act": (norms.instance_norm, norms.SIZES["instance_norm_act"]),
    "layer_instance_norm_act": (norms.layer_instance_norm, norms.SIZES["layer_instance_norm_act"]),
    "group_norm_act": (norms.group_norm, norms.SIZES["group_norm_act"]),
    "pixel_norm": (norms.pixel_normalisation, norms.SIZES["pixel_norm"]),
    "bias_act": (convolutions.activation, convolutions.SIZES["bias_act"]),
    "scaled_bias_act": (convolutions.epilogue, convolutions.SIZES["scaled_bias_act"]),
    "minibatch_stddev": (norms.minibatch_statistics, norms.SIZES["minibatch_stddev"]),
    "spectral_normalize": (spectral_norm.weights_of_layers, spectral_norm.SIZES),
    "upfirdn2d": (convolutions.resampling, convolutions.SIZES["upfirdn2d"]),
    "upsample_conv2d": (convolutions.upsampling_conv, convolutions.SIZES["upsample_conv2d"]),
    "conv2d_downsample": (convolutions.downsampling_conv, convolutions.SIZES["conv2d_downsample"]),
    "modulated_conv2d": (convolutions.modulated_conv, convolutions.SIZES["modulated_conv2d"]),
}
"""By name: what makes the subject, and its sizes unless told."""

_MAP = ("batch", "channels", "side")


def _map(*numbers: int) -> dict[str, int]:
    return dict(zip(_MAP, numbers))


def _attention(*numbers: int) -> dict[str, int]:
    return dict(zip(attention.SIZES, numbers))


def _conv(*numbers: int) -> dict[str, int]:
    return dict(zip(("batch", "in", "out", "side"), numbers))


_ONE: Mapping[str, int] = {"batch": 1}

# Channels and grids are the networks'; on CPUs the batches are small, and what takes seconds there is left out.
SHAPE_SETS: dict[str, tuple[Site, ...]] = {
    "sagan-128": (
        Site("feature_attention", "32x32", _attention(64, 32, 128, 32, 32), _ONE),
        Site("feature_attention", "64x64-pooled", _attention(64, 16, 64, 64, 32), None),
        Site("feature_attention", "64x64", _attention(64, 16, 64, 64, 64), None),
        Site("batch_norm_act", "256-32x32", _map(64, 256, 32), {"batch": 4}),
        Site("spectral_normalize", "discriminator", {"layers": 8, "channels": 512}, {"layers": 4, "channels": 128}),
    ),
    "biggan-128": (
        Site("feature_attention", "64x64-pooled", _attention(64, 24, 96, 64, 32), None),
        Site("batch_norm_act", "192-64x64", _map(64, 192, 64), None),
        Site("batch_norm_act", "1536-4x4", _map(64, 1536, 4), None),
        Site("group_norm_act", "192-64x64", {**_map(64, 192, 64), "groups": 16}, _ONE),
        Site("upsample_conv2d", "384-192-32x32", _conv(64, 384, 192, 32), {"batch": 1, "in": 192, "out": 96}),
        Site("conv2d_downsample", "192-384-16x16", _conv(64, 192, 384, 16), {"batch": 1}),
        Site("spectral_normalize", "generator", {"layers": 20, "channels": 768}, None),
    ),
    "stylegan2-256": (
        Site("modulated_conv2d", "512-32x32", _conv(8, 512, 512, 32), {"batch": 2, "in": 128, "out": 128}),
        Site("modulated_conv2d", "128-128x128", _conv(8, 128, 128, 128), None),
        Site("scaled_bias_act", "256-64x64", _map(8, 256, 64), _ONE),
        Site("bias_act", "128-128x128", _map(8, 128, 128), _ONE),
        Site("upfirdn2d", "up-128-64x64", {**_map(8, 128, 64), "up": 2, "down": 1}, _ONE),
        Site("upfirdn2d", "down-128-128x128", {**_map(8, 128, 128), "up": 1, "down": 2}, None),
        Site("minibatch_stddev", "512-4x4", {**_map(32, 512, 4), "group": 4}),
    ),
    "progan-256": (
        Site("pixel_norm", "128-128x128", _map(8, 128, 128), _ONE),
        Site("pixel_norm", "512-32x32", _map(8, 512, 32), None),
    ),
    "ugatit-256": (
        Site("instance_norm_act", "128-128x128", _map(1, 128, 128)),
        Site("instance_norm_act", "64-256x256", _map(1, 64, 256), None),
        Site("layer_instance_norm_act", "256-64x64", _map(1, 256, 64)),
        Site("upsample_conv2d", "256-128-64x64", _conv(1, 256, 128, 64), None),
    ),
}


def make_cases(
    ops: Iterable[str],
    shapes: Iterable[str],
    dtypes: Iterable[str],
    layouts: Iterable[str],
    device: torch.device,
    *,
    own: Sequence[Site] = (),
) -> list[Case]:
    """Cases in the order in which they are measured: one of each op first, so that a run cut short tells of all.

    Args:
        ops: of `OPS`; none are all. shapes: of `SHAPE_SETS`; none are all.
        own: sites of the caller, in place of the named ones.

    Raises:
        ValueError: an op or a shape set has no such name, or nothing is left.
    """
    wanted, sets = tuple(ops), tuple(shapes)
    for name in wanted:
        require_known("op", name, OPS)
    for name in sets:
        require_known("shapes", name, SHAPE_SETS)
    sites = [("own", site) for site in own] or [
        (name, site) for name, all_sites in SHAPE_SETS.items() for site in all_sites if not sets or name in sets
    ]
    found: dict[str, list[Case]] = {}
    for shape_set, site in sites:
        if (wanted and site.op not in wanted) or (device.type == "cpu" and site.on_cpu is None):
            continue
        changed = site.on_cpu if device.type == "cpu" and site.on_cpu is not None else {}
        sizes = {**OPS[site.op][1], **site.sizes, **changed}
        found.setdefault(site.op, []).extend(
            Case(shape_set, site.op, site.name, sizes, dtype, layout) for dtype in dtypes for layout in layouts
        )
    if not found:
        what, where = ", ".join(wanted) or "any op", ", ".join(sets) or "any set"
        raise ValueError(f"no shapes of {where} for {what} on device {device.type}")
    most = max(map(len, found.values()))
    ordered = [found[op] for op in OPS if op in found]
    return [cases[turn] for turn in range(most) for cases in ordered if turn < len(cases)]


def make_subject(case: Case, device: torch.device) -> Subject:
    """Tensors and implementations of a case."""
    return OPS[case.op][0](case.sizes, Draw(case.dtype, case.layout, device))


def parse_site(text: str) -> Site:
    """``op:size=number,...`` as a site of one's own; sizes that are not given are the op's usual ones.

    Raises:
        ValueError: op or size has no such name, or a number is not a positive integer.
    """
    op, _, rest = text.partition(":")
    require_known("op", op, OPS)
    sizes = {}
    for part in filter(None, rest.split(",")):
        name, _, number = part.partition("=")
        require_known(f"size of {op}", name, OPS[op][1])
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(f"{op}: {name} must be a positive integer, got {number!r}")
        sizes[name] = int(number)
    return Site(op, rest.replace(",", " ") or "usual", sizes)


def require_known(what: str, name: str, known: Iterable[str]) -> None:
    """ValueError, with the nearest name, unless `name` is among `known`."""
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"unknown {what} {name!r}{hint}; known: {', '.join(names)}")

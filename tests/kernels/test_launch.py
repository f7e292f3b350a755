"""Recording launches instead of running them; what every launch of the attention kernels says."""

import contextlib

import pytest
import torch

from ganfuse.kernels.launch import Launch, launch, record_launches, target_of

CPU = torch.device("cpu")


class Kernel:
    """Stands for a compiled kernel: remembers how it was started."""

    def __init__(self):
        self.calls = []

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.calls.append((grid, args, kwargs))


def _start(kernel, grid=(4, 2)):
    launch(kernel, grid, CPU, [1, 2.0], {"BLOCK": 16}, num_warps=8, num_stages=2)


def test_runs():
    kernel = Kernel()
    _start(kernel)
    assert kernel.calls == [((4, 2), (1, 2.0), {"BLOCK": 16, "num_warps": 8, "num_stages": 2})]


@pytest.mark.parametrize("grid", [(0,), (0, 3), (3, 0)])
def test_an_empty_grid_is_no_launch(grid):
    kernel = Kernel()
    _start(kernel, grid)
    assert kernel.calls == []


def test_recording():
    kernel = Kernel()
    with record_launches("sm90") as launches:
        _start(kernel)
        assert target_of(CPU) == "sm90"
    assert kernel.calls == []
    assert launches == [Launch(kernel, (4, 2), (1, 2.0), {"BLOCK": 16}, 8, 2)]
    _start(kernel)
    assert len(launches) == len(kernel.calls) == 1


def test_recordings_nest_and_end_with_errors():
    kernel = Kernel()
    with record_launches("sm90") as outer:
        _start(kernel)
        with contextlib.suppress(KeyError), record_launches("gfx942") as inner:
            _start(kernel)
            assert target_of(CPU) == "gfx942"
            raise KeyError
        assert target_of(CPU) == "sm90"
        _start(kernel)
    assert (len(outer), len(inner)) == (2, 1)
    _start(kernel)
    assert len(kernel.calls) == 1


@pytest.mark.interpreter
def test_target_of_the_interpreter():
    assert target_of(CPU) == "interpreter"


def _recorded(dtype=torch.bfloat16, scale=1.0, causal=False, target="sm90", d=32, side=32, heads=1):
    pytest.importorskip("triton")
    from ganfuse.kernels.feature_attention import triton
    from ganfuse.kernels.feature_attention.allocation import Attributes

    attributes = Attributes(scale, causal, "tokens", "triton")
    q, k, v = (torch.empty(2, heads, side * side, c, dtype=dtype, device="meta") for c in (d, d, 64))
    with record_launches(target) as launches:
        output, state = triton.forward(attributes, (q, k, v))
        gradients, notes = triton.backward(attributes, (True,) * 3, output, (q, k, v), output, (state,))
        triton.double_backward(attributes, (True,) * 4, gradients, output, (q, k, v), output, (state,), notes)
    return launches


def _constants(launches, name):
    return {item.constants[name] for item in launches}


def test_float32_products_follow_the_setting_of_the_moment(float32_settings):
    """Whatever launchers remember from call to call, it is not this."""
    for setting, expected in (("highest", "ieee"), ("high", "tf32"), ("highest", "ieee")):
        torch.set_float32_matmul_precision(setting)
        assert _constants(_recorded(torch.float32), "PRECISION") == {expected}


def test_a_call_that_differs_in_one_thing_differs():
    """Scale, mask, target, type, heads: launchers that cache by shape must not mix them up."""
    base = _recorded()
    assert _constants(base, "CAUSAL") == {False}
    assert _constants(_recorded(causal=True), "CAUSAL") == {True}
    assert _constants(_recorded(), "CAUSAL") == {False}
    whole, half = (
        [x for item in _recorded(scale=scale) for x in item.args if isinstance(x, float)] for scale in (1.0, 0.5)
    )
    assert whole == [2 * x for x in half]
    grids = {heads: [item.grid[0] for item in _recorded(heads=heads)] for heads in (1, 3)}
    assert grids[3] == [3 * g for g in grids[1]]
    assert [item.grid for item in _recorded()] == [item.grid for item in base]


@pytest.mark.parametrize(
    "target", ["sm75", "sm80", "sm86", "sm89", "sm90", "sm103", "sm120", "sm130", "gfx90a", "gfx942"]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("d", [1, 24, 256])
def test_every_chip_gets_tiles(target, dtype, d):
    """Known or not: positive tile sizes, powers of two, that the grid covers exactly."""
    for item in _recorded(dtype, target=target, d=d, side=9):
        blocks = {name: size for name, size in item.constants.items() if name.startswith("BLOCK_")}
        assert all(size >= 16 and size & (size - 1) == 0 for size in blocks.values()), blocks
        tiles, chunks = item.grid
        assert tiles % 2 == 0
        assert (tiles // 2) in {-(-81 // blocks["BLOCK_N"]), -(-81 // blocks["BLOCK_M"])}
        channels = {-(-d // blocks["BLOCK_D"]), -(-64 // blocks["BLOCK_E"])}
        assert chunks in channels

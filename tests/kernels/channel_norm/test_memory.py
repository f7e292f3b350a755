"""What is kept for the backward, and how many kernels run."""

import pytest
import torch

from ganfuse.kernels import batch_norm_act, cost, instance_norm_act, layer_instance_norm_act
from ganfuse.kernels.channel_norm import cost as norm_cost
from ganfuse.kernels.launch import record_launches


@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_only_the_input_and_numbers_per_channel_are_saved(backend, activation):
    x = torch.randn(4, 3, 16, 16, requires_grad=True)
    rho = torch.rand(3, requires_grad=True)
    calls = (
        lambda: batch_norm_act(x, rho, rho, None, None, training=True, activation=activation, backend=backend),
        lambda: instance_norm_act(x, rho, rho, activation=activation, backend=backend),
        lambda: layer_instance_norm_act(x, rho, rho, rho, activation=activation, backend=backend),
    )
    for run in calls:
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            run()
        maps = [t for t in saved if t.numel() >= x.numel()]
        assert len(maps) == 1
        assert maps[0].data_ptr() == x.data_ptr()
        assert sum(t.numel() for t in saved if t.numel() < x.numel()) <= 10 * 4 * 3


def _names(case):
    from ganfuse.kernels.channel_norm import cases

    with record_launches("sm90") as launches:
        cases.run(case)
    return [launch.kernel.fn.__name__ for launch in launches]


@pytest.mark.compiled
@pytest.mark.parametrize("noise", ["", "own"])
@pytest.mark.parametrize("kind", ["batch", "row", "group", "mix", "given"])
def test_at_most_three_launches_forward_three_backward_three_again(kind, noise):
    pytest.importorskip("triton")
    from ganfuse.kernels.channel_norm import cases

    # So large that no row stays on chip.
    names = _names(cases.Case(kind, 4, 32, 256, "silu", noise=noise))
    assert len(names) == (2 if kind == "given" else 3) + (3 if noise else 6)
    forward = names.index("norm_apply") + 1
    assert forward <= 3
    assert names.index("norm_apply_backward") + 1 - forward == 3


@pytest.mark.compiled
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("per_sample", "prologue"), [(True, ""), (False, ""), (True, "leaky_relu")])
def test_rows_that_stay_on_chip_are_read_once(channels_last, per_sample, prologue):
    pytest.importorskip("triton")
    from ganfuse.kernels.channel_norm import cases

    noise = "own" if prologue else ""
    case = cases.Case("row", 8, 256, 16, "relu", per_sample, channels_last, noise=noise, prologue=prologue)
    names = _names(case)
    assert names[:2] == ["norm_rows", "norm_rows_backward"]
    # What all samples share is summed over them by one launch more.
    shared = [] if per_sample and not prologue else ["norm_row_totals"]
    assert [n for n in names[2:] if "double" not in n] == shared


@pytest.mark.parametrize("channels_last", [True, False])
def test_when_rows_stay_on_chip(channels_last):
    from ganfuse.kernels.channel_norm import configs

    def held(kernel, batch, channels, side):
        return configs.choose_held(kernel, "sm90", 2, channels_last, batch, channels, side * side)

    for kernel in ("rows", "rows_backward"):
        small = held(kernel, 8, 512, 16)
        assert small is not None
        assert small.block == 256
        assert held(kernel, 8, 64, 256) is None
        # Few rows, but much in each: two passes over it by many programs.
        assert held(kernel, 1, 64, 64) is None or channels_last is False
        assert held(kernel, 1, 32, 128) is None


def test_reductions_are_split_where_rows_are_few():
    from ganfuse.kernels.channel_norm import configs

    for channels_last in (True, False):
        few, many = (
            configs.choose("statistics", "sm90", 2, channels_last, batch, 64, 256 * 256) for batch in (1, 1024)
        )
        assert few.splits >= 16
        assert few.splits * few.chunk >= 256 * 256
        assert many.splits == 1


@pytest.mark.interpreter
def test_running_statistics_move_within_the_three_launches(monkeypatch):
    from ganfuse.kernels.channel_norm import running, triton, triton_passes

    started = []
    for module in (triton, triton_passes):

        def counting(kernel, *rest, launch=module.launch, **options):
            started.append(kernel.fn.__name__)
            return launch(kernel, *rest, **options)

        monkeypatch.setattr(module, "launch", counting)
    monkeypatch.setattr(running.RunningStatistics, "update", lambda *_: pytest.fail("another launch"))
    x, mean, var = torch.randn(4, 3, 5, 5), torch.zeros(3), torch.ones(3)
    versions = mean._version, var._version
    batch_norm_act(x, None, None, mean, var, training=True, momentum=0.3, activation="relu", backend="triton")
    assert started == ["norm_statistics", "norm_coefficients", "norm_apply"]
    torch.testing.assert_close(mean, 0.3 * x.mean((0, 2, 3)))
    torch.testing.assert_close(var, 0.7 + 0.3 * x.var((0, 2, 3)))
    assert (mean._version, var._version) == (versions[0] + 1, versions[1] + 1)


def test_cost():
    one = 4 * 6 * 100 * 2
    assert norm_cost.forward(4, 6, 100, 2) == cost.Cost(bytes=3 * one, flops=0)
    assert norm_cost.forward(4, 6, 100, 2, given=True).bytes == 2 * one
    assert norm_cost.backward(4, 6, 100, 2).bytes == 5 * one
    noise = 4 * 100 * 4
    assert norm_cost.forward(4, 6, 100, 2, on_chip=True).bytes == 2 * one
    assert norm_cost.forward(4, 6, 100, 2, noise_bytes=noise).bytes == 3 * one + noise
    assert norm_cost.forward(4, 6, 100, 2, prologue="silu", noise_bytes=noise) == cost.Cost(
        3 * one + 2 * noise, 0, 2 * 4 * 6 * 100
    )
    assert norm_cost.backward(4, 6, 100, 2, on_chip=True, prologue="silu").bytes == 3 * one
    assert norm_cost.backward(4, 6, 100, 2, noise_bytes=noise).bytes == 5 * one + 2 * noise
    assert norm_cost.double_backward(4, 6, 100, 2, activation="silu") == cost.Cost(8 * one, 0, 4 * 4 * 6 * 100)

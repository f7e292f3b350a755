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


@pytest.mark.compiled
@pytest.mark.parametrize("kind", ["batch", "row", "group", "mix", "given"])
def test_three_launches_forward_three_backward_three_again(kind):
    pytest.importorskip("triton")
    from ganfuse.kernels.channel_norm import cases

    with record_launches("sm90") as launches:
        cases.run(cases.Case(kind, 4, 32, 16, "silu"))
    names = [launch.kernel.fn.__name__ for launch in launches]
    assert len(names) == (8 if kind == "given" else 9)
    forward = names.index("norm_apply") + 1
    assert forward <= 3
    assert names.index("norm_apply_backward") + 1 - forward == 3


def test_cost():
    one = 4 * 6 * 100 * 2
    assert norm_cost.forward(4, 6, 100, 2) == cost.Cost(bytes=3 * one, flops=0)
    assert norm_cost.forward(4, 6, 100, 2, given=True).bytes == 2 * one
    assert norm_cost.backward(4, 6, 100, 2).bytes == 5 * one
    assert norm_cost.double_backward(4, 6, 100, 2, activation="silu") == cost.Cost(8 * one, 0, 4 * 4 * 6 * 100)

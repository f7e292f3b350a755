"""Each wrong argument is named, with what came and what was expected."""

import pytest
import torch

from ganfuse.kernels import batch_norm_act, group_norm_act, instance_norm_act, layer_instance_norm_act

X = torch.zeros(2, 6, 3, 3)
C, BC = torch.ones(6), torch.ones(2, 6)


def batch(x=X, gain=None, bias=None, mean=None, var=None, *, training=True, **options):
    return batch_norm_act(x, gain, bias, mean, var, training=training, **options)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: instance_norm_act([1.0], None, None), "x must be a tensor, got list"),
        (lambda: instance_norm_act(X.int(), None, None), "x must be one of .* got int32"),
        (lambda: instance_norm_act(X[0, 0], None, None), r"at least 3 dimensions, got shape \(3, 3\)"),
        (lambda: instance_norm_act(X[:, :0], None, None), r"no empty dimension but the batch, got shape \(2, 0"),
        (lambda: instance_norm_act(X, torch.ones(5), None), r"gain must have shape \(6,\) or \(2, 6\) .* got \(5,\)"),
        (lambda: instance_norm_act(X, None, torch.ones(3, 6)), r"bias must have shape .* got \(3, 6\)"),
        (lambda: instance_norm_act(X, C.to("meta"), None), "gain must be on x's device, cpu, got meta"),
        (lambda: instance_norm_act(X, C, None, eps=-1.0), "eps must be a finite number of at least 0, got -1.0"),
        (lambda: instance_norm_act(X, C, None, activation="gelu"), "activation must be one of .* got 'gelu'"),
        (lambda: instance_norm_act(X, C, None, negative_slope=float("nan")), "negative_slope must be a finite"),
        (lambda: instance_norm_act(X, C, None, backend="cuda"), "backend must be one of .* got 'cuda'"),
        (lambda: layer_instance_norm_act(X, None, C, C), r"rho must be a tensor of shape \(6,\), got None"),
        (lambda: layer_instance_norm_act(X, BC, C, C), r"rho must have shape \(6,\) .* got \(2, 6\)"),
        (lambda: group_norm_act(X, 4, C, C), "num_groups must be a positive divisor of C = 6, got 4"),
        (lambda: group_norm_act(X, 2.0, C, C), "num_groups must be a positive divisor of C = 6, got 2.0"),
        (lambda: batch(mean=C), "running_mean and running_var must both be given"),
        (lambda: batch(mean=BC, var=C), r"running_mean must have shape \(6,\)"),
        (lambda: batch(momentum=None), r"momentum must be a number in \[0, 1\], got None"),
        (lambda: batch(process_group="world"), "process_group needs torch.distributed to be initialised"),
        (lambda: batch(X[:1, :, :1, :1]), "more than one value per channel"),
    ],
)
def test_errors(made, said):
    with pytest.raises(ValueError, match=said):
        made()


def test_groups_that_the_kernels_do_not_take_fall_back(monkeypatch):
    from ganfuse.kernels.channel_norm import configs
    from ganfuse.kernels.channel_norm.allocation import Attributes

    attributes = Attributes("group", 1, 1e-5, False, "none", 0.2, "", "")
    said = configs.unsupported(attributes, torch.empty((2, 4096, 1, 1), device="meta"))
    assert said is not None
    assert "a group has 4096 channels" in said
    assert configs.unsupported(attributes._replace(groups=32), torch.empty((2, 4096, 1, 1), device="meta")) is None

import pytest
import torch

from ganfuse.kernels import modulated_conv2d, setup_filter

X, W, S = torch.randn(2, 3, 5, 4), torch.randn(4, 3, 3, 3), torch.randn(2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("x", W, S), {}, "modulated_conv2d: x must be a tensor, got str"),
        ((X, W[0], S), {}, r"weight must have 4 dimensions, got shape \(3, 3, 3\)"),
        ((X, W[:, :2], S), {}, r"weight.shape\[1\] must be 3 \(channels of x\), got 2"),
        ((X, W, S[:1]), {}, r"styles must have shape \(2, 3\), \(B, I\) of x, got \(1, 3\)"),
        ((X, W.double(), S), {}, "weight must be float32 or have x's type, torch.float32, got torch.float64"),
        ((X, W, S.to("meta")), {}, "styles must be on x's device, cpu, got meta"),
        ((X, W, S, torch.randn(2, 1, 5, 4)), {}, r"noise must have shape \(2, 1, 3, 2\), \(1, 1, 3, 2\) or \(3, 2\)"),
        ((X, W, S), {"bias": torch.randn(3)}, r"bias must have shape \(4,\), one per output, got \(3,\)"),
        ((X, W, S), {"up": 0}, "up must be a positive integer, got 0"),
        ((X, W, S), {"down": 2.0}, "down must be a positive integer, got 2.0"),
        ((X, W, S), {"padding": [1, 2, 3]}, "padding must be an integer"),
        ((X, W, S), {"padding": -1}, "must fit into x with its padding, 5×4 gives a result of 1×0"),
        ((X, W, S), {"resample_filter": [1, 3, 3, 1]}, "f must be a tensor or None"),
        ((X, W, S), {"resample_filter": setup_filter(1.0, device="meta")}, "resample_filter must be on x's device"),
        ((X, W, S), {"act": "leaky_relu"}, "act must be one of linear, relu, lrelu"),
        ((X, W, S), {"clamp": -1}, "clamp must be at least 0 or None"),
        ((X, W, S), {"form": "dense"}, "form must be one of 'auto', 'scaled'"),
        ((X, W, S), {"form": "pointwise"}, "form 'pointwise' does not take this call: the kernel must be 1×1"),
        ((X, W, S), {"backend": "cuda"}, "backend must be one of"),
        ((X[:, :, :0], W, S), {}, "x must have no empty dimension but the batch"),
    ],
)
def test_messages(arguments, options, said):
    with pytest.raises(ValueError, match=said):
        modulated_conv2d(*arguments, **options)


def test_a_form_from_the_environment(monkeypatch):
    monkeypatch.setenv("GANFUSE_MODULATED_CONV2D", "dense")
    with pytest.raises(ValueError, match="GANFUSE_MODULATED_CONV2D must be one of 'auto', 'scaled'"):
        modulated_conv2d(X, W, S)
    monkeypatch.setenv("GANFUSE_MODULATED_CONV2D", "grouped")
    expected = modulated_conv2d(X, W, S, form="grouped")
    assert torch.equal(modulated_conv2d(X, W, S), expected)


def test_meta_tensors():
    y = modulated_conv2d(X.to("meta"), W.to("meta"), S.to("meta"), padding=1)
    assert y.shape == (2, 4, 5, 4)
    assert y.device.type == "meta"

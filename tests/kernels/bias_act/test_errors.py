import pytest
import torch

from ganfuse.kernels import BackendUnavailableError, bias_act
from ganfuse.kernels.backend import INTERPRETED

X = torch.randn(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("x",), {}, "bias_act: x must be a tensor, got str"),
        ((X.long(),), {}, "x must be one of float16, bfloat16, float32, float64, got int64"),
        ((X,), {"act": "leaky"}, "act must be one of linear, relu, lrelu"),
        ((X,), {"act": "sofplus"}, "did you mean 'softplus'"),
        ((X,), {"clamp": -1}, "clamp must be at least 0 or None, got -1"),
        ((X,), {"clamp": float("nan")}, "clamp must be at least 0"),
        ((X, torch.randn(4)), {}, r"b must have x.shape\[1\] = 3 elements, got 4"),
        ((X, torch.randn(3)), {"dim": 2}, r"b must have x.shape\[2\] = 4 elements, got 3"),
        ((X, torch.randn(3, 1)), {}, r"b must have 1 dimensions, got shape \(3, 1\)"),
        ((X, torch.randn(3)), {"dim": 4}, r"dim must be in \[-4, 4\)"),
        ((X, torch.randn(3).double()), {}, "b must be float32 or have x's type"),
        ((X, torch.randn(3, device="meta")), {}, "b must be on x's device, cpu, got meta"),
        ((X,), {"backend": "cuda"}, "backend must be one of"),
    ],
)
def test_messages(arguments, options, said):
    with pytest.raises(ValueError, match=said):
        bias_act(*arguments, **options)


@pytest.mark.skipif(INTERPRETED, reason="here Triton runs on CPU tensors")
def test_triton_where_it_cannot_run():
    with pytest.raises(BackendUnavailableError, match="need a GPU tensor"):
        bias_act(X, backend="triton")


def test_meta_tensors():
    assert bias_act(X.to("meta"), torch.randn(3, device="meta"), act="lrelu").shape == X.shape

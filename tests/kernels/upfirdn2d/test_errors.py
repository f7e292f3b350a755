import pytest
import torch

from ganfuse.kernels import BackendUnavailableError, downsample2d, filter2d, upfirdn2d, upsample2d
from ganfuse.kernels.backend import INTERPRETED

X = torch.randn(2, 3, 4, 5)
F4 = torch.ones(4, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (("x", F4), {}, "upfirdn2d: x must be a tensor, got str"),
        ((X.long(), F4), {}, "x must be one of float16, bfloat16, float32, float64, got int64"),
        ((X[0], F4), {}, r"x must have 4 dimensions, got shape \(3, 4, 5\)"),
        ((X[:, :, :0], F4), {}, "x must have no empty dimension but the batch"),
        ((X, [1.0, 3.0]), {}, "f must be a tensor or None .*, got list"),
        ((X, F4.double()), {}, "f must be float32, got float64"),
        ((X, torch.ones(1, 2, 2)), {}, r"f must be \(rows, columns\) or \(taps,\), not empty, got shape \(1, 2, 2\)"),
        ((X, torch.ones(0)), {}, "not empty"),
        ((X, torch.ones(2, requires_grad=True)), {}, "f must not require grad"),
        ((X, torch.ones(2, 2, device="meta")), {}, "f must be on x's device, cpu, got meta"),
        ((X, F4), {"up": 0}, r"up must be a positive integer or \[x, y\] of two, got 0"),
        ((X, F4), {"up": [1, 2, 3]}, "up must be a positive integer"),
        ((X, F4), {"up": 2.0}, "up must be a positive integer"),
        ((X, F4), {"up": True}, "up must be a positive integer"),
        ((X, F4), {"up": "12"}, "up must be a positive integer"),
        ((X, F4), {"down": [2, -1]}, "down must be a positive integer"),
        (
            (X, F4),
            {"padding": [1, 2, 3]},
            r"an integer, \[x, y\] or \[x0, x1, y0, y1\], got \[1, 2, 3\]",
        ),
        ((X, F4), {"padding": 0.5}, "padding must be an integer"),
        ((X, torch.ones(5, 2)), {}, r"at least as large as the filter, 2×5 \(width × height\), got 5×4"),
        ((X, F4), {"padding": [-1, -1, 0, 0]}, "got 3×4"),
        ((X, F4), {"gain": "two"}, "gain must be a finite number, got 'two'"),
        ((X, F4), {"gain": float("nan")}, "gain must be a finite number, got nan"),
        ((X, F4), {"backend": "cuda"}, "backend must be one of"),
    ],
)
def test_messages(arguments, options, said):
    with pytest.raises(ValueError, match=said):
        upfirdn2d(*arguments, **options)


@pytest.mark.parametrize("function", [filter2d, upsample2d, downsample2d])
def test_messages_name_the_function_that_was_called(function):
    for options in ({"f": [1.0]}, {"f": F4, "padding": "2"}):
        with pytest.raises(ValueError, match=f"^{function.__name__}: "):
            function(X, **options)


@pytest.mark.skipif(INTERPRETED, reason="here Triton runs on CPU tensors")
def test_triton_where_it_cannot_run():
    with pytest.raises(BackendUnavailableError, match="need a GPU tensor"):
        upfirdn2d(X, F4, backend="triton")


def test_meta_tensors():
    y = upsample2d(X.to("meta"), F4.to("meta"))
    assert y.shape == (2, 3, 8, 10)

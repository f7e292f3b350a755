import pytest
import torch

from ganfuse.kernels import spectral_normalize

W = torch.ones(3, 4)
U = torch.ones(3)
V = torch.ones(4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((W, [U]), {}, "must be a list of tensors"),
        (([W], [U, U]), {}, r"us must have one entry per weight, 1, got 2"),
        (([W], [U], [V, V]), {}, r"vs must have one entry per weight, 1, got 2"),
        (([W], [V]), {}, r"us\[0\] must have shape \(3,\) for weights\[0\] of shape \(3, 4\)"),
        (([W], [U], [U]), {}, r"vs\[0\] must have shape \(4,\)"),
        (([W], [U]), {"dims": [1]}, r"us\[0\] must have shape \(4,\)"),
        (([W], [U]), {"dims": [2]}, r"dims\[0\] must be in 0..1"),
        (([W], [U]), {"dims": [0, 1]}, "dims must have one entry per weight"),
        (([U], [U]), {}, r"weights\[0\] must have at least 2 dimensions"),
        (([W.int()], [U]), {}, r"weights\[0\] must be one of"),
        (([W], [U.double()]), {}, r"us\[0\] must have the type and device of weights\[0\]"),
        (([W], [U.clone().requires_grad_()]), {}, "must not require grad"),
        (([W], [U]), {"n_power_iterations": 0}, "n_power_iterations must be at least 1, got 0"),
        (([W], [U]), {"eps": 0.0}, "eps must be positive"),
        (([W], [U]), {"first": "w"}, "first must be 'u' or 'v'"),
        (([W], [U]), {"first": "u"}, "first='u' needs vs"),
        (([W], [U]), {"dtype": torch.int32}, "dtype must be a floating type"),
        (([W], [U]), {"backend": "fast"}, "backend must be one of"),
    ],
)
def test_message(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        spectral_normalize(*arguments, **options)

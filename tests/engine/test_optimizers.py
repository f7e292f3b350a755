"""Settings of optimisers, which come from configurations: whatever stands there is named."""

import pytest
import torch

from ganfuse.engine.optimizers import SGD, Adam, RMSprop


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        *((kind, key, value) for kind in (Adam, RMSprop, SGD) for key in ("lr", "weight_decay") for value in (-1, "x")),
        *((Adam, "betas", value) for value in (0.5, "ab", (0.5,), ("a", "b"), (0.5, 1.0), (0.5, None))),
        (Adam, "eps", -1),
        *((RMSprop, "alpha", value) for value in (1, "x", -0.1)),
        (SGD, "momentum", -1),
    ],
)
def test_a_wrong_setting_is_named(kind, key, value):
    with pytest.raises(ValueError, match=f"^{key}: expected .*, got "):
        kind(**{"lr": 1e-3, key: value})


@pytest.mark.parametrize("lean", [False, True])
def test_betas_of_any_sequence(lean):
    assert Adam(1e-3, [0, 0.9], lean=lean) == Adam(1e-3, (0.0, 0.9), lean=lean)
    (group,) = Adam(1e-3, [0, 0.9], lean=lean)([torch.nn.Parameter(torch.zeros(2))]).param_groups
    assert group["betas"] == (0.0, 0.9)

"""Each argument wrong in turn: a ValueError that names it, what came and what was expected."""

import pytest
import torch

from ganfuse.kernels import feature_attention, scaled_dot_product_attention

MAPS = {"query": (2, 4, 3, 3), "key": (2, 4, 2, 2), "value": (2, 6, 2, 2)}
LISTS = {"query": (2, 5, 4), "key": (2, 7, 4), "value": (2, 7, 6)}
BACKENDS = ["reference", "eager", "auto"]


def _call(function, shapes, backend, changes):
    arguments = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return function(**{**arguments, "backend": backend, **changes})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": [[1.0]]}, r"query must be a tensor, got list"),
        ({"key": None}, r"key must be a tensor, got NoneType"),
        ({"value": torch.zeros(2, 6, 2, 2, dtype=torch.int64)}, r"value must be one of float16.*got int64"),
        ({"query": torch.zeros(2, 4, 3, 3, dtype=torch.complex64)}, r"query must be one of.*got complex64"),
        ({"query": torch.zeros(4, 3, 3)}, r"query must have 4 dimensions, got shape \(4, 3, 3\)"),
        ({"key": torch.zeros(2, 4, 4)}, r"key must have 4 dimensions, got shape \(2, 4, 4\)"),
        ({"value": torch.zeros(2, 6, 2, 2, 1)}, r"value must have 4 dimensions"),
        ({"query": torch.zeros(2, 0, 3, 3)}, r"query must have no empty dimension.*\(2, 0, 3, 3\)"),
        ({"query": torch.zeros(2, 4, 0, 3)}, r"query must have no empty dimension"),
        ({"key": torch.zeros(2, 4, 2, 0)}, r"key must have no empty dimension"),
        ({"value": torch.zeros(2, 0, 2, 2)}, r"value must have no empty dimension"),
        ({"key": torch.zeros(3, 4, 2, 2)}, r"key\.shape\[0\] must be 2 .*batch.*got 3"),
        ({"value": torch.zeros(1, 6, 2, 2)}, r"value\.shape\[0\] must be 2 .*batch.*got 1"),
        ({"key": torch.zeros(2, 5, 2, 2)}, r"key\.shape\[1\] must be 4 .*channels.*got 5"),
        ({"value": torch.zeros(2, 6, 2, 3)}, r"value must have the key's grid \(2, 2\), got \(2, 3\)"),
        ({"value": torch.zeros(2, 6, 4, 1)}, r"value must have the key's grid \(2, 2\), got \(4, 1\)"),
        ({"key": torch.zeros(2, 4, 2, 2).half()}, r"key must have the type of query, float32, got float16"),
        ({"value": torch.zeros(2, 6, 2, 2).double()}, r"value must have the type of query, float32, got float64"),
        ({"key": torch.zeros(2, 4, 2, 2, device="meta")}, r"key must be on query's device, cpu, got meta"),
        ({"scale": float("nan")}, r"scale must be a finite number, got nan"),
        ({"scale": float("inf")}, r"scale must be a finite number, got inf"),
        ({"scale": torch.tensor(1.0)}, r"scale must be a finite number"),
        ({"backend": "trition"}, r"backend must be one of.*got 'trition' \(did you mean 'triton'\?\)"),
    ],
)
def test_feature_attention(backend, changes, message):
    with pytest.raises(ValueError, match=r"^(feature_attention: |backend )") as caught:
        _call(feature_attention, MAPS, backend, changes)
    assert caught.match(message)


@pytest.mark.parametrize("scale", ["one", None, 1j])
def test_scale_of_another_type(scale):
    with pytest.raises(ValueError, match="scale must be a finite number"):
        _call(feature_attention, MAPS, None, {"scale": scale})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": torch.zeros(4)}, r"query must have at least 2 dimensions, got shape \(4,\)"),
        ({"key": "k"}, r"key must be a tensor, got str"),
        ({"key": torch.zeros(2, 7, 4, dtype=torch.bool)}, r"key must be one of.*got bool"),
        ({"query": torch.zeros(2, 0, 4)}, r"query must have no empty dimension"),
        ({"key": torch.zeros(2, 0, 4)}, r"key must have no empty dimension"),
        ({"query": torch.zeros(2, 5, 3)}, r"key\.shape\[-1\] must be 3 .*channels.*got 4"),
        ({"value": torch.zeros(2, 6, 6)}, r"value\.shape\[-2\] must be 7 .*number of keys.*got 6"),
        ({"value": torch.zeros(3, 7, 6)}, r"leading dimensions .* must broadcast, got .*\(3, 7, 6\)"),
        ({"scale": float("inf")}, r"scale must be a finite number, got inf"),
        ({"value": torch.zeros(2, 7, 6).half()}, r"value must have the type of query, float32, got float16"),
    ],
)
def test_scaled_dot_product_attention(backend, changes, message):
    with pytest.raises(ValueError, match=r"^scaled_dot_product_attention: ") as caught:
        _call(scaled_dot_product_attention, LISTS, backend, changes)
    assert caught.match(message)


@pytest.mark.interpreter
@pytest.mark.parametrize(("d", "e"), [(257, 8), (8, 513)])
def test_head_sizes_that_are_not_built(d, e):
    q, k, v = torch.randn(1, d, 2, 2), torch.randn(1, d, 2, 2), torch.randn(1, e, 2, 2)
    with pytest.raises(ValueError, match=rf"'triton' cannot run here: head sizes up to 256 .* got {d} and {e}"):
        feature_attention(q, k, v, backend="triton")
    torch.testing.assert_close(feature_attention(q, k, v), feature_attention(q, k, v, backend="reference"))

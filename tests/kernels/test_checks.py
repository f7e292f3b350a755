import pytest
import torch

from ganfuse.kernels.checks import check_alike, check_nonempty, check_size, check_tensor


def test_good_arguments_pass():
    x = torch.zeros(2, 3, 1)
    check_tensor("op", "x", x, ndim=3)
    check_tensor("op", "x", x.bfloat16(), least_ndim=2)
    check_tensor("op", "x", torch.nn.Parameter(x))
    check_alike("op", x=x, y=torch.ones(7))
    check_size("op", "x.shape[0]", 2, 2, "anything")
    check_nonempty("op", "x", torch.zeros(0, 3))
    check_nonempty("op", "x", torch.zeros(0, 0, 3, 4), first_dim=2)


@pytest.mark.parametrize("value", [None, 1.0, [1.0], "x"])
def test_no_tensor(value):
    with pytest.raises(ValueError, match=rf"^op: x must be a tensor, got {type(value).__name__}$"):
        check_tensor("op", "x", value)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.uint8, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_types(dtype):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"^op: x must be one of float16, bfloat16, float32, float64, got {name}$"):
        check_tensor("op", "x", torch.zeros(2).to(dtype))


def test_dimensions():
    with pytest.raises(ValueError, match=r"^op: x must have 4 dimensions, got shape \(2, 3\)$"):
        check_tensor("op", "x", torch.zeros(2, 3), ndim=4)
    with pytest.raises(ValueError, match=r"^op: x must have at least 2 dimensions, got shape \(2,\)$"):
        check_tensor("op", "x", torch.zeros(2), least_ndim=2)


def test_alike():
    x = torch.zeros(1)
    with pytest.raises(ValueError, match=r"^op: key must have the type of query, float32, got float64$"):
        check_alike("op", query=x, value=x, key=x.double())
    with pytest.raises(ValueError, match=r"^op: key must be on query's device, cpu, got meta$"):
        check_alike("op", query=x, key=x.to("meta"))


def test_sizes():
    with pytest.raises(ValueError, match=r"^op: x\.shape\[1\] must be 3 \(the channels\), got 4$"):
        check_size("op", "x.shape[1]", 4, 3, "the channels")


@pytest.mark.parametrize("shape", [(2, 0), (0, 3, 0), (1, 0, 5)])
def test_empty(shape):
    with pytest.raises(ValueError, match=r"^op: x must have no empty dimension but the batch, got shape"):
        check_nonempty("op", "x", torch.zeros(shape))

"""No N×M matrix is ever held: what every operation allocates, watched."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ganfuse.kernels import feature_attention
from ganfuse.kernels.feature_attention import eager
from ganfuse.kernels.launch import record_launches


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation gave, and by which operation."""

    def __init__(self):
        super().__init__()
        self.elements = 0
        self.operation = ""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        for x in results if isinstance(results, (tuple, list)) else (results,):
            # Storage, not shape: an expanded number is no matrix.
            if isinstance(x, torch.Tensor):
                elements = x.untyped_storage().nbytes() // x.element_size()
                if elements > self.elements:
                    self.elements, self.operation = elements, str(function)
        return results


def _run(inputs, backend, order):
    output = feature_attention(*inputs, backend=backend)
    first = torch.autograd.grad(output.sum(), inputs, create_graph=order > 1)
    if order > 1:
        torch.autograd.grad(sum(g.square().sum() for g in first), inputs)


def _maps(side, d=8, e=16, **options):
    return tuple(torch.randn(1, c, side, side, requires_grad=True, **options) for c in (d, d, e))


def test_watching_works():
    with LargestTensor() as largest:
        _run(_maps(16), "reference", 1)
    assert largest.elements == 256 * 256


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_first_order_at_64(backend):
    pairs = 4096 * 4096
    with LargestTensor() as largest:
        _run(_maps(64), backend, 1)
    assert largest.elements <= pairs // 64, largest.operation


def test_second_order_at_64():
    with LargestTensor() as largest:
        _run(_maps(64), "auto", 2)
    assert largest.elements <= 4096 * 4096 // 8, largest.operation


def test_double_backward_holds_a_block_at_a_time(monkeypatch):
    monkeypatch.setattr(eager, "_STORED_PAIRS", 0)
    monkeypatch.setattr(eager, "_BLOCK_PAIRS", 4096)
    with LargestTensor() as largest:
        _run(_maps(16, 4, 4), "eager", 2)
    assert largest.elements <= 4096, largest.operation


def test_kept_weights_cost_one_matrix():
    """Where weights are kept, one backward makes one more such matrix (dS), and no zeros for the state's gradient."""
    made = []

    class Matrices(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape[-2:] == (256, 256) and result._base is None:
                made.append(str(function))
            return result

    inputs = _maps(16)
    total = feature_attention(*inputs, backend="eager").sum()
    with Matrices():
        torch.autograd.grad(total, inputs)
    assert not any("zeros" in name for name in made), made


@pytest.mark.parametrize("channels_last", [False, True])
def test_triton_allocates_rows(channels_last):
    """The launchers on meta tensors: everything they allocate is of the size of an input or a number per query."""
    pytest.importorskip("triton")
    from ganfuse.kernels.feature_attention import triton
    from ganfuse.kernels.feature_attention.allocation import Attributes

    format = torch.channels_last if channels_last else torch.contiguous_format
    q, k, v = (torch.empty(2, c, 64, 64, device="meta").contiguous(memory_format=format) for c in (8, 8, 16))
    attributes = Attributes(1.0, False, "map", "triton")
    with LargestTensor() as largest, record_launches("sm90") as launches:
        output, state = triton.forward(attributes, (q, k, v))
        gradients, notes = triton.backward(attributes, (True,) * 3, output, (q, k, v), output, (state,))
        triton.double_backward(attributes, (True,) * 4, gradients, output, (q, k, v), output, (state,), notes)
    assert len(launches) >= 5
    assert largest.elements <= v.numel(), largest.operation
    assert not any(isinstance(x, torch.Tensor) and x.numel() > v.numel() for item in launches for x in item.args)

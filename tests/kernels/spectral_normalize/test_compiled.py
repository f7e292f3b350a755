"""The op that compiled graphs without kernels take u and v from."""

import pytest
import torch

from ganfuse.kernels import spectral_normalize
from tests.kernels.spectral_normalize.problems import Batch, make_batch

NAMES = ("conv channels_last", "conv_transpose", "linear", "transposed")


@pytest.mark.parametrize("iterations", [0, 2])
@pytest.mark.parametrize("first", ["v", "u"])
def test_gives_new_vectors(first, iterations):
    batch = make_batch(NAMES)
    expected = Batch(batch.weights, [u.clone() for u in batch.us], [v.clone() for v in batch.vs], batch.dims)
    if iterations:
        spectral_normalize(
            *expected[:3], dims=batch.dims, first=first, n_power_iterations=iterations, backend="reference"
        )
    op = torch.ops.ganfuse.spectral_normalize_vectors.default
    for i, (weight, u, v, dim) in enumerate(zip(*batch)):
        arguments = (weight.detach(), u, v, dim, iterations, 1e-12, first)
        torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"))
        before = u.clone(), v.clone()
        torch.testing.assert_close(op(*arguments), (expected.us[i], expected.vs[i]), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close((u, v), before, rtol=0, atol=0)


def test_without_v():
    (weight,), (u,), _, (dim,) = make_batch(["conv channels_last"])
    op = torch.ops.ganfuse.spectral_normalize_vectors.default
    arguments = (weight.detach(), u, None, dim, 1, 1e-12, "v")
    torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"))
    v = torch.ones(weight.numel() // len(u), dtype=u.dtype)
    torch.testing.assert_close(op(*arguments), op(weight.detach(), u, v, dim, 1, 1e-12, "v"))

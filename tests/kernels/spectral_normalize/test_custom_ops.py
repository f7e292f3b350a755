"""The door that torch.compile goes through: the custom ops, called as it calls them."""

import pytest
import torch

from ganfuse.kernels import spectral_normalize
from ganfuse.kernels.spectral_normalize.layout import readable
from tests.kernels.spectral_normalize.problems import derivatives, make_batch

pytestmark = pytest.mark.interpreter

ALL = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
NAMES = ("conv channels_last", "conv_transpose", "linear")


def _settings(batch, dtype=None):
    return batch.dims, dtype, 1, 1e-12, "v"


def _door(batch):
    import ganfuse.kernels.spectral_normalize.autograd  # noqa: F401  registers the ops

    ops = torch.ops.ganfuse
    return ops, ops.spectral_normalize(batch.weights, batch.us, batch.vs, *_settings(batch))


@pytest.mark.parametrize("level", ["", "_backward", "_double_backward", "_update"])
def test_opcheck(level):
    batch = make_batch(NAMES)
    ops, (normalised, sigmas, packed) = _door(batch)
    weights = [w.detach().clone(memory_format=torch.preserve_format) for w in batch.weights]
    grads = [torch.randn_like(n) for n in normalised]
    constants = (weights, sigmas.detach(), packed.detach())
    chosen = list(range(len(weights)))
    if level == "":
        arguments = (batch.weights, batch.us, batch.vs, *_settings(batch))
    elif level == "_backward":
        arguments = (grads, torch.randn_like(sigmas).detach(), *constants, chosen, *_settings(batch))
    elif level == "_double_backward":
        cotangents = [torch.randn_like(w) for w in weights]
        dots = torch.randn_like(sigmas).detach()
        arguments = (cotangents, grads, dots.clone(), *constants, dots, chosen, *_settings(batch))
    else:
        sizes = [x for w, d in zip(weights, batch.dims) for x in readable(w, d)[1]]
        arguments = (batch.us, batch.vs, packed.detach(), sizes, chosen)
    tests = ("test_schema", "test_faketensor") if level == "_update" else ALL
    torch.library.opcheck(getattr(ops, f"spectral_normalize{level}").default, arguments, test_utils=tests)


def test_same_derivatives_as_the_other_door():
    batch, plain = make_batch(NAMES), make_batch(NAMES)
    _, (normalised, sigmas, _) = _door(batch)
    expected = spectral_normalize(plain.weights, plain.us, plain.vs, dims=plain.dims, backend="reference")
    actual = derivatives(normalised, list(sigmas.unbind()), batch.weights, 2)
    for a, e in zip(actual, derivatives(*expected, plain.weights, 2)):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


def test_compiles_without_a_graph_break():
    torch.compiler.reset()
    batch, plain = make_batch(NAMES), make_batch(NAMES)

    def layers(backend):
        def function(weights, us, vs):
            return spectral_normalize(weights, us, vs, dims=batch.dims, backend=backend)[0]

        return function

    compiled = torch.compile(layers("triton"), fullgraph=True, backend="aot_eager")
    results = []
    for function, some in ((compiled, batch), (layers("reference"), plain)):
        normalised = function(some.weights, some.us, some.vs)
        gradients = torch.autograd.grad(sum(n.sin().sum() for n in normalised), some.weights)
        results.append((normalised, gradients, some.us, some.vs))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)

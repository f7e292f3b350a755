"""Every form against the definition: values, first, second and third derivatives, layouts."""

import pytest
import torch

from tests.kernels.derivative_checks import check, check_third
from tests.kernels.modulated_conv2d.problems import LAYERS, Problem, call, make_inputs

FORMS = ("scaled", "grouped")


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_layers(layer, form, layout):
    problem = LAYERS[layer]
    check(call(problem, form=form), call(problem, backend="reference"), make_inputs(problem, layout=layout))


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_pointwise(demodulate, layout):
    problem = LAYERS["torgb"]._replace(demodulate=demodulate, noise="own")
    check(call(problem, form="pointwise"), call(problem, backend="reference"), make_inputs(problem, layout=layout))


@pytest.mark.parametrize("layer", ["plain", "up", "down"])
def test_first_and_second_by_finite_differences(layer):
    problem = LAYERS[layer]._replace(size=(3, 4))
    for form in FORMS:
        inputs = make_inputs(problem)
        assert torch.autograd.gradcheck(call(problem, form=form), inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(call(problem, form=form), inputs, fast_mode=True)


@pytest.mark.parametrize("layer", ["plain", "up"])
def test_third(layer):
    problem = LAYERS[layer]._replace(size=(3, 4), clamp=None)
    check_third(call(problem), call(problem, backend="reference"), make_inputs(problem))


@pytest.mark.interpreter
@pytest.mark.parametrize(("layer", "layout"), [("plain", "nchw"), ("up", "channels_last"), ("down", "nchw")])
def test_kernels_around_the_convolution(layer, layout):
    problem = LAYERS[layer]
    ours = call(problem, backend="triton", form="scaled")
    check(ours, call(problem, backend="reference"), make_inputs(problem, layout=layout))


@pytest.mark.parametrize("form", ["scaled", "grouped"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_results_keep_the_layout(form, layout):
    problem = Problem(outputs=5, size=(6, 6))
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for p in (problem, LAYERS["up"]._replace(outputs=5), problem._replace(kernel=(1, 1), padding=0)):
        forms = (form, "pointwise") if p.kernel == (1, 1) else (form,)
        for which in forms:
            x, *rest = make_inputs(p, layout=layout)
            y = call(p, form=which)(x, *rest)
            assert y.is_contiguous(memory_format=format)
            if which != "grouped":
                assert torch.autograd.grad(y.sum(), x)[0].is_contiguous(memory_format=format)


@pytest.mark.parametrize("form", ["auto", "scaled"])
def test_empty_batch(form):
    for backend in (None, "reference"):
        for layer in ("plain", "up", "torgb"):
            problem = LAYERS[layer]._replace(batch=0, noise=None)
            inputs = make_inputs(problem)
            y = call(problem, form=form, backend=backend)(*inputs)
            assert y.shape[0] == 0
            assert y.shape[1] == problem.outputs
            assert torch.equal(torch.autograd.grad(y.sum(), inputs[1])[0], torch.zeros_like(inputs[1]))

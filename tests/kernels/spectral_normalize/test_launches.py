"""How many kernels a whole model takes."""

import pytest
import torch

pytest.importorskip("triton")

from ganfuse.kernels import spectral_normalize
from ganfuse.kernels.launch import record_launches
from ganfuse.kernels.spectral_normalize import cases, triton, work

MODELS = {"D": cases.biggan_discriminator, "G": cases.biggan_generator}


def _make(shapes, device="cpu"):
    weights = [torch.randn(shape, device=device).requires_grad_() for shape in shapes]
    us = [torch.nn.functional.normalize(torch.randn(w.shape[0], device=device), dim=0) for w in weights]
    vs = [torch.nn.functional.normalize(torch.randn(w.numel() // w.shape[0], device=device), dim=0) for w in weights]
    return weights, us, vs


@pytest.mark.interpreter
@pytest.mark.parametrize("name", MODELS)
def test_six_forward_and_three_backward_whatever_the_number_of_layers(monkeypatch, name):
    shapes = MODELS[name](8)
    shapes = [(min(s[0], 16), min(s[1], 8), *s[2:]) for s in shapes]  # quick to interpret, as many layers
    # Whole matrices to a program: what is counted are launches.
    tiles = work.INTERPRETED._replace(rows=64, columns=256, tall=64, wide=256, vector=256, flat=16384)
    monkeypatch.setattr(triton, "INTERPRETED", tiles)
    started = []
    original = triton.launch

    def counted(kernel, grid, *args, **kwargs):
        started.append(kernel.fn.__name__)
        original(kernel, grid, *args, **kwargs)

    monkeypatch.setattr(triton, "launch", counted)
    weights, us, vs = _make(shapes)
    normalised, _ = spectral_normalize(weights, us, vs, backend="triton")
    assert len(weights) == {"D": 23, "G": 41}[name]
    assert len(started) == 6, started
    started.clear()
    gradients = torch.autograd.grad(sum(n.square().sum() for n in normalised), weights, create_graph=True)
    assert len(started) == 3, started
    started.clear()
    if name == "D":
        torch.autograd.grad(sum(g.square().sum() for g in gradients), weights)
        assert started.count("spectral_combine") == 2, started  # ∂G and ∂W, then dW of ∂G
        assert len(started) == 6, started
    started.clear()
    with torch.no_grad():
        spectral_normalize(weights, us, vs, update=False, backend="triton")
    assert len(started) == 3, started


@pytest.mark.parametrize("name", MODELS)
def test_at_full_size(name):
    """The launchers on tensors without memory, at BigGAN-128's sizes: work for a large GPU, not too small or many."""
    shapes = MODELS[name]()
    case = cases.Case(tuple(shapes))
    with record_launches("sm90") as launches:
        cases.run(case)
    names = [launch.kernel.fn.__name__ for launch in launches]
    assert len(names) == 5 + 1 + 3 + 3
    grids = {launch.kernel.fn.__name__: launch.grid[0] for launch in launches}
    for kernel in ("spectral_products_down", "spectral_products_across", "spectral_write", "spectral_combine"):
        assert 2 * 132 < grids[kernel] < 20_000, kernel


def test_work_is_made_once():
    work.work_for.cache_clear()
    case = cases.Case(((4, 5), (6, 7)))
    with record_launches("sm90"):
        for _ in range(3):
            cases.run(case)
    assert work.work_for.cache_info().misses == 1


@pytest.mark.interpreter
def test_shipped_tiles(monkeypatch):
    """The tiles that GPUs get, interpreted once over a matrix with several strips each way."""
    monkeypatch.setattr(triton, "INTERPRETED", work.SHIPPED)
    weights, us, vs = _make([(150, 2100), (3, 7)])
    plain = [w.detach().double().requires_grad_() for w in weights]
    plain_us, plain_vs = [u.double() for u in us], [v.double() for v in vs]
    normalised, _ = spectral_normalize(weights, us, vs, backend="triton")
    expected, _ = spectral_normalize(plain, plain_us, plain_vs, backend="reference")
    gradients = torch.autograd.grad(sum(n.sin().sum() for n in normalised), weights)
    truth = torch.autograd.grad(sum(n.sin().sum() for n in expected), plain)
    for some, others in ((normalised, expected), (us, plain_us), (vs, plain_vs), (gradients, truth)):
        for a, e in zip(some, others):
            torch.testing.assert_close(a.double(), e, rtol=1e-4, atol=1e-5)


def test_addresses_are_kept_for_the_allocators_next_round():
    weights = [torch.ones(2, 2), torch.ones(3)]
    table = work.pointers(weights, torch.device("cpu"))
    assert table.tolist() == [w.data_ptr() for w in weights]
    assert work.pointers(weights, torch.device("cpu")) is table
    assert work.pointers(weights[:1], torch.device("cpu")) is not table

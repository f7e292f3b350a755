import pytest
import torch
from torch import nn

from ganfuse.engine.layers import BatchNormAct2d, ConditionalBatchNorm2d
from ganfuse.engine.standing_statistics import collect_standing_statistics, standing_statistics


def _model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 1), BatchNormAct2d(4, activation="relu"), nn.Dropout(0.5), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)
    )


def _batches(seed, count):
    generator = torch.Generator().manual_seed(seed)
    return [3 + torch.randn(6, 3, 4, 4, generator=generator) for _ in range(count)]


def _expected(model, batches):
    """Averages of the batches' moments, layer by layer, in evaluation mode but for batch normalisation."""
    means, variances = [], []
    with torch.no_grad():
        for x in batches:
            a = model[0](x)
            normalised = nn.functional.batch_norm(a, None, None, model[1].weight, model[1].bias, True)
            b = model[3](normalised.relu())
            means.append([a.mean((0, 2, 3)), b.mean((0, 2, 3))])
            variances.append([a.var((0, 2, 3)), b.var((0, 2, 3))])
    return [[torch.stack(column).mean(0) for column in zip(*table)] for table in (means, variances)]


def test_averages_of_all_batches():
    model = _model().train()
    for x in _batches(1, 5):
        model(x)
    batches = _batches(2, 4)
    with standing_statistics(model):
        for x in batches:
            model(x)
    for statistics, buffer in zip(_expected(model, batches), ("running_mean", "running_var")):
        for layer, expected in zip((model[1], model[4]), statistics):
            torch.testing.assert_close(getattr(layer, buffer), expected, rtol=1e-5, atol=1e-5)
    assert [int(model[i].num_batches_tracked) for i in (1, 4)] == [4, 4]


def test_twice_starts_anew_and_momentum_and_modes_come_back():
    model = _model()
    model[4].momentum = None
    model[1].momentum = 0.3
    model[3].eval()
    modes = [m.training for m in model.modules()]
    results = []
    for _ in range(2):
        with standing_statistics(model):
            assert [m.training for m in model.modules()] == [False, False, True, False, False, True]
            for x in _batches(2, 3):
                y = model(x)
            assert not y.requires_grad
        results.append([b.clone() for b in model.buffers()])
        assert [m.training for m in model.modules()] == modes
        assert (model[1].momentum, model[4].momentum) == (0.3, None)
        model.train()
        for x in _batches(5, 2):
            model(x)
        model[3].eval()
    for first, second in zip(*results):
        assert torch.equal(first, second)


def test_a_failure_leaves_everything_as_it_was():
    model = _model().train()
    model(_batches(1, 1)[0])
    before = [b.clone() for b in model.buffers()]

    def interrupted():
        with standing_statistics(model):
            model(_batches(2, 1)[0])
            raise KeyboardInterrupt

    def without_batches():
        with standing_statistics(model):
            pass

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ValueError, match="no batch was run through 1, 4"):
        without_batches()
    for a, b in zip(before, model.buffers()):
        assert torch.equal(a, b)
    assert all(m.training for m in model.modules())
    assert model[1].momentum == 0.1


def test_conditional_layers_and_instance_norm():
    norm = ConditionalBatchNorm2d(3, num_classes=2)
    instance = nn.InstanceNorm2d(3, track_running_stats=True)
    model = nn.ModuleList([norm, instance])
    (x,) = _batches(1, 1)
    collect_standing_statistics(model, lambda i: norm(instance(x) + i, torch.tensor([0, 1, 0, 1, 0, 1])), 2)
    assert int(norm.num_batches_tracked) == 2
    assert int(instance.num_batches_tracked) == 0
    torch.testing.assert_close(norm.running_mean, instance.eval()(x).mean((0, 2, 3)) + 0.5)
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        collect_standing_statistics(model, print, 0)


def test_without_batch_norm_nothing_happens():
    model = nn.Conv2d(3, 3, 1)
    with standing_statistics(model):
        pass
    collect_standing_statistics(nn.BatchNorm2d(3, track_running_stats=False), lambda i: None, 1, show_progress=True)

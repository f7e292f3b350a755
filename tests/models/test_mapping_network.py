import pytest
import torch
import torch.nn.functional as F

from ganfuse.models.mapping_network import MappingNetwork

F64 = torch.float64


def normalised(x):
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize(("gain", "activation_gain", "factor"), [(1.0, None, 2**0.5), (2**0.5, 1.0, 1.0)])
def test_formula(num_classes, gain, activation_gain, factor):
    net = MappingNetwork(
        5, 6, num_layers=2, num_classes=num_classes, gain=gain, activation_gain=activation_gain, lr_multiplier=0.1
    ).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(std=3.0)
    z, labels = torch.randn(4, 5, dtype=F64), torch.tensor([0, 2, 1, 2])
    w = normalised(z)
    if num_classes is not None:
        embedded = net.embed.weight[:, labels].t() / 3**0.5 + net.embed.bias
        w = torch.cat([w, normalised(embedded)], 1)
    for layer in (net.fc0, net.fc1):
        scale = gain * 0.1 / w.shape[1] ** 0.5
        w = factor * F.leaky_relu(w @ (layer.weight * scale).t() + 0.1 * layer.bias, 0.2)
    torch.testing.assert_close(net(z, None if num_classes is None else labels), w)


def test_labels_alone():
    net = MappingNetwork(0, 4, num_classes=3, average_decay=None).double()
    w = net(None, torch.tensor([1, 1, 2]))
    assert torch.equal(w[0], w[1])
    assert not torch.equal(w[0], w[2])


def test_average_of_what_was_observed():
    net = MappingNetwork(5, 6, average_decay=0.9).double()
    first, second, unseen = (torch.randn(n, 5, dtype=F64) for n in (3, 1, 2))
    w = torch.cat([net(first, observe=True), net(second, observe=True)])
    net(unseen)
    assert not net.w_avg.value.any()
    net.w_avg.update()
    torch.testing.assert_close(net.w_avg.value, 0.1 * w.mean(0))
    before = net.w_avg.value.clone()
    net.w_avg.update()
    assert torch.equal(net.w_avg.value, before)


def test_truncation():
    net = MappingNetwork(5, 6).double()
    net.w_avg.value.normal_()
    w, mean = torch.randn(3, 6, dtype=F64), net.w_avg.value
    torch.testing.assert_close(net.truncate(w, 0.7), mean + 0.7 * (w - mean))
    torch.testing.assert_close(net.truncate(w, 0.0), mean.expand(3, 6))
    torch.testing.assert_close(net.truncate(w, 1.3), 1.3 * w - 0.3 * mean)
    assert net.truncate(w, 1.0) is w


def test_autocast_leaves_it_alone():
    net = MappingNetwork(5, 6)
    z = torch.randn(3, 5)
    expected = net(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(z), expected)


def test_errors():
    with pytest.raises(ValueError, match="latent_dim: expected at least 1"):
        MappingNetwork(0, 4)
    net = MappingNetwork(5, 6, num_classes=3, average_decay=None)
    with pytest.raises(ValueError, match=r"z: expected \(B, 5\), got \(2, 4\)"):
        net(torch.randn(2, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"z: expected \(B, 5\)"):
        net(None, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels: this network has 3 classes"):
        net(torch.randn(2, 5))
    with pytest.raises(ValueError, match="truncation: this network keeps no moving average"):
        net.truncate(torch.randn(2, 6), 0.5)

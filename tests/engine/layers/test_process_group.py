"""Copies of modules that belong to a group of processes."""

import copy

import pytest
import torch

from ganfuse import BatchNormAct2d, ConditionalBatchNorm2d, MinibatchDiscrimination, MinibatchStdDev
from ganfuse.engine.augment import AdaptiveAugment
from ganfuse.engine.moving_average import MovingAverage
from ganfuse.engine.replay_pool import ReplayPool


class Group:
    def __reduce_ex__(self, protocol):
        raise TypeError("cannot pickle a process group")


@pytest.mark.parametrize(
    "make",
    [
        lambda: BatchNormAct2d(3),
        lambda: ConditionalBatchNorm2d(3, num_classes=2),
        lambda: MinibatchStdDev(),
        lambda: MinibatchDiscrimination(4, 3, 2),
        lambda: MovingAverage(2, decay=0.9),
        lambda: ReplayPool(2, (1, 4, 4)),
        lambda: AdaptiveAugment(),
    ],
)
def test_a_copy_is_in_the_same_group_and_has_its_own_tensors(make):
    module = make()
    module.process_group = Group()
    clone = copy.deepcopy(torch.nn.Sequential(module))[0]
    assert type(clone) is type(module)
    assert clone.process_group is module.process_group
    assert clone.state_dict().keys() == module.state_dict().keys()
    for (name, value), other in zip(clone.state_dict().items(), module.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
        assert value.numel() == 0 or value.data_ptr() != other.data_ptr(), name

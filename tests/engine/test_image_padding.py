import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine.image_padding import crop_to, pad_to_multiple, padded_side


@pytest.mark.parametrize(("size", "multiple", "least", "expected"), [
    ((8, 12), 4, 8, (8, 12)),
    ((9, 12), 4, 8, (12, 12)),
    ((7, 13), 16, 1, (16, 16)),
    ((3, 2), 4, 20, (20, 20)),
    ((1, 5), 8, 8, (8, 8)),
])  # fmt: skip
def test_pads_to_the_next_size_and_back(size, multiple, least, expected):
    images = torch.randn(2, 3, *size)
    padded = pad_to_multiple(images, multiple, least)
    assert padded.shape[2:] == expected
    assert torch.equal(crop_to(padded, *size), images)
    assert tuple(padded_side(side, multiple, least) for side in size) == expected


def test_as_in_a_mirror():
    images = torch.arange(20.0).view(1, 1, 4, 5)
    assert torch.equal(pad_to_multiple(images, 7), F.pad(images, (1, 1, 1, 2), mode="reflect"))
    row = pad_to_multiple(torch.arange(3.0).view(1, 1, 1, 3), 1, 9)[0, 0]
    assert torch.equal(row[0], torch.tensor([1.0, 2, 1, 0, 1, 2, 1, 0, 1]))
    assert torch.equal(row, row[:1].expand(9, 9))

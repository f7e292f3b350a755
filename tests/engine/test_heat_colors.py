import pytest
import torch

from ganfuse.engine.heat_colors import heat_colors, overlay_heat


def test_from_black_over_red_and_yellow_to_white():
    heat = torch.tensor([0.0, 1 / 6, 1 / 3, 2 / 3, 1.0]).view(1, 1, 1, 5)
    expected = torch.tensor([[-1.0, -1, -1], [0, -1, -1], [1, -1, -1], [1, 1, -1], [1, 1, 1]])
    torch.testing.assert_close(heat_colors(heat)[0, :, 0].T, expected)


def test_overlay_keeps_the_image_in_gray():
    images = torch.rand(2, 3, 4, 5) * 2 - 1
    shown = overlay_heat(images, torch.zeros(2, 1, 4, 5))
    torch.testing.assert_close(shown, (images.mean(1, keepdim=True) / 2 - 0.5).expand(-1, 3, -1, -1))
    assert overlay_heat(images[:, :1], torch.ones(2, 1, 4, 5)).shape == (2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"heat: expected \(2, 1, 4, 5\)"):
        overlay_heat(images, torch.zeros(2, 1, 5, 4))

"""Augmentation on a GPU: the CPU's results and derivatives, and no waiting of the host for the device."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from ganfuse.engine.augment import AdaptiveAugment, augment, diff_augment, random_crop
from ganfuse.engine.noise import Noise

pytestmark = pytest.mark.gpu

AUGMENTATIONS: dict[str, Callable[[Tensor, Noise | torch.Generator], Tensor]] = {
    "ada": lambda x, noise: augment(x, torch.full((), 0.9, device=x.device), generator=noise),
    "diffaugment": lambda x, noise: diff_augment(x, generator=noise),
    "crop": lambda x, noise: random_crop(x, 12, generator=noise),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_values_and_derivatives_are_the_cpus(name: str) -> None:
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)

    def derivatives(device: str) -> list[Tensor]:
        leaf = images.to(device).requires_grad_()
        # The numbers are drawn on the CPU for both.
        result = AUGMENTATIONS[name](leaf, Noise(torch.Generator().manual_seed(1)))
        (first,) = torch.autograd.grad(result.tanh().sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), leaf)
        return [result.detach().cpu(), first.detach().cpu(), second.cpu()]

    for cpu, gpu in zip(derivatives("cpu"), derivatives("cuda"), strict=True):
        assert torch.allclose(cpu, gpu, rtol=1e-6, atol=1e-6)


@pytest.fixture
def no_waiting() -> Iterator[Callable[[], None]]:
    def begin() -> None:
        torch.cuda.set_sync_debug_mode("error")

    yield begin
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_host_does_not_wait(name: str, no_waiting: Callable[[], None]) -> None:
    images = torch.randn(4, 3, 16, 16, device="cuda", requires_grad=True)
    generator = torch.Generator("cuda").manual_seed(0)
    AUGMENTATIONS[name](images, generator)
    no_waiting()
    result = AUGMENTATIONS[name](images, generator)
    (gradient,) = torch.autograd.grad(result.tanh().sum(), images, create_graph=True)
    gradient.square().sum().backward()


def test_the_controller_does_not_wait(no_waiting: Callable[[], None]) -> None:
    ada = AdaptiveAugment(kimg=0.1, interval=1).cuda()
    outputs = torch.ones(8, device="cuda")
    no_waiting()
    for _ in range(3):
        ada.observe(outputs)
        ada.adjust(batch_size=8)
    torch.cuda.set_sync_debug_mode("default")
    assert ada.p.item() == pytest.approx(0.24)

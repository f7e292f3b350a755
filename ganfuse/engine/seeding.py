"""Randomness of a run: independent streams derived from one seed, each of which can be stored and restored."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["GlobalRandomness", "derive_seed", "make_generator"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose; different purposes give unrelated streams, on every platform the same."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def make_generator(device: torch.device, seed: int, *purpose: str | int) -> torch.Generator:
    """A generator on the device, seeded for one purpose."""
    return torch.Generator(device).manual_seed(derive_seed(seed, *purpose))


class GlobalRandomness:
    """PyTorch's global generators (dropout draws from them) while a run has them.

    They are seeded afresh for every step, so that nothing about them needs to be stored; the rest of the program finds
    them as it left them.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._device = device

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the generators are the run's."""
        with _preserved(self._device):
            yield

    def reseed(self, *purpose: str | int) -> None:
        """Seeds the generators for a purpose, such as one step; to be called inside `active()`."""
        torch.manual_seed(derive_seed(self._seed, "global", *purpose))

    @contextmanager
    def aside(self, *purpose: str | int) -> Iterator[None]:
        """Inside, the generators are seeded for another purpose; afterwards they go on as if nothing had been drawn."""
        with _preserved(self._device):
            self.reseed(*purpose)
            yield


@contextmanager
def _preserved(device: torch.device) -> Iterator[None]:
    before = _read(device)
    try:
        yield
    finally:
        _write(device, before)


def _read(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def _write(device: torch.device, state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    elif device.type != "cpu":
        torch.get_device_module(device).set_rng_state(state[device.type])

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
    """The state of PyTorch's global generators (dropout draws from them) that belongs to a run.

    The rest of the program keeps its own: inside `active()` the run's state is in force, outside it the program's.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with _preserved(device):
            torch.manual_seed(derive_seed(seed, "global"))
            self._state = _read(device)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Puts the run's state in force, and notes it again at the end."""
        with _preserved(self._device):
            _write(self._device, self._state)
            try:
                yield
            finally:
                self._state = _read(self._device)

    @contextmanager
    def aside(self, seed: int) -> Iterator[None]:
        """Inside, the global generators are freshly seeded; afterwards they go on as if nothing had been drawn."""
        with _preserved(self._device):
            torch.manual_seed(seed)
            yield

    def read(self) -> dict[str, Tensor]:
        """The state in force now: to be called inside `active()`."""
        return _read(self._device)

    def load(self, state: dict[str, Tensor]) -> None:
        """Sets the state that the next `active()` begins with. A state from another kind of device is partly used."""
        self._state = {**self._state, **{key: value.cpu() for key, value in state.items() if key in self._state}}


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

"""How the processes of one life of a distributed run find each other, whatever earlier lives have left behind."""

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist

__all__ = ["meet", "rendezvous"]

# As long as PyTorch itself waits for processes over gloo.
TIMEOUT = timedelta(minutes=30)
POLL_SECONDS = 0.02
_KEYS = "ganfuse/rendezvous"


def rendezvous() -> tuple[dist.Store, int, int, bool]:
    """The store in which the processes that `torchrun` has started leave their addresses, of this life alone.

    Returns:
        the store, this process's rank, how many there are, and whether the run was restarted.
    """
    store, rank, count = next(dist.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[no-untyped-call]
    store.set_timeout(TIMEOUT)
    failures = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    token, restarted = meet(store, rank, count, failures=failures, timeout=TIMEOUT)
    return dist.PrefixStore(f"{_KEYS}/{token}", store), rank, count, restarted


def meet(store: dist.Store, rank: int, count: int, *, failures: int, timeout: timedelta) -> tuple[str, bool]:
    """Agrees with the other processes that live now on a name that no earlier life has used.

    The agents of `torchrun` keep one store for all restarts, and the addresses of processes that are dead stay in it.
    A process that is quicker than the others would call the dead, and fail or wait for them. The number of the restart
    does not tell the lives apart: the machines of one run count only the failures of their own processes.

    So the first process offers a name, the others answer under it with a number of their own, and it confirms those
    numbers: what was offered, answered or confirmed in an earlier life holds none of them.

    Args:
        store: shared by the processes, perhaps with those of earlier lives.
        rank: of this process.
        count: of all processes.
        failures: for which this machine has started its processes again.
        timeout: how long the first process is waited for; that for the others is the store's.

    Returns:
        the name, and whether there was an earlier life.

    Raises:
        TimeoutError: the others did not come.
    """
    if rank == 0:
        offer = uuid.uuid4().hex
        earlier = store.add(f"{_KEYS}/lives", 1) > 1 or failures > 0
        store.set(f"{_KEYS}/offer", offer)
        answers = [_get(store, f"{_KEYS}/{offer}/{other}").split() for other in range(1, count)]
        earlier = earlier or any(counted != "0" for _, counted in answers)
        store.set(f"{_KEYS}/{offer}/confirmed", " ".join([str(int(earlier)), *(number for number, _ in answers)]))
        return offer, earlier
    number = uuid.uuid4().hex
    answered = ""
    deadline = time.monotonic() + timeout.total_seconds()
    while time.monotonic() < deadline:
        offer = _get(store, f"{_KEYS}/offer")
        if offer != answered:
            store.set(f"{_KEYS}/{offer}/{rank}", f"{number} {failures}")
            answered = offer
        if store.check([f"{_KEYS}/{offer}/confirmed"]):
            restarted, *confirmed = _get(store, f"{_KEYS}/{offer}/confirmed").split()
            if number in confirmed:
                return offer, restarted == "1"
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"process {rank} of {count}: the first process did not come within {timeout}")


def _get(store: dist.Store, key: str) -> str:
    try:
        return store.get(key).decode()
    except dist.DistStoreError as error:
        raise TimeoutError(f"{key}: another process of the run did not come ({error})") from error

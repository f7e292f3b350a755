"""Processes that are started again find each other, not what the dead have left in the store."""

import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from ganfuse.engine.rendezvous import meet

TIMEOUT = timedelta(seconds=30)


def live(store, ranks, count=3, failures=(0, 0, 0)):
    """Lets processes meet in that order, with a pause after each. Returns what each was told."""
    told = {}

    def join(rank):
        told[rank] = meet(store, rank, count, failures=failures[rank], timeout=TIMEOUT)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert len(told) == count
    return told


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_every_life_has_a_name_of_its_own_whoever_comes_first(order):
    store = dist.HashStore()
    lives = [live(store, order) for _ in range(3)]
    names = [{name for name, _ in told.values()} for told in lives]
    assert all(len(found) == 1 for found in names)
    assert len(set.union(*names)) == 3
    assert [{restarted for _, restarted in told.values()} for told in lives] == [{False}, {True}, {True}]


def test_a_life_in_which_not_all_have_come_does_not_disturb_the_next():
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=0.3))
    with pytest.raises(TimeoutError, match="did not come"):
        meet(store, 0, 3, failures=0, timeout=TIMEOUT)
    with pytest.raises(TimeoutError, match="process 1 of 3"):
        meet(store, 1, 3, failures=0, timeout=timedelta(seconds=0.1))
    store.set_timeout(TIMEOUT)
    told = live(store, (2, 1, 0))
    assert len({name for name, _ in told.values()}) == 1


@pytest.mark.parametrize("failures", [(0, 1, 0), (1, 0, 0), (0, 0, 0)])
def test_a_failure_that_one_machine_has_counted_is_known_to_all(failures):
    # With a new store for each life, it is the numbers of failures that tell.
    told = live(dist.HashStore(), (0, 1, 2), failures=failures)
    assert {restarted for _, restarted in told.values()} == {any(failures)}

"""Working ahead changes when items are made, and nothing else."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.streaming.prefetch import prefetch

WAIT_S = 5.0


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def wait_for(condition):
    limit = time.monotonic() + WAIT_S
    while not condition() and time.monotonic() < limit:
        time.sleep(0.002)
    assert condition()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(), st.just(ValueError("an item")))), st.data())
def test_items_come_in_order_whatever_they_are(items, data):
    depth = data.draw(st.integers(1, 4))
    assert list(prefetch(iter(items), depth)) == items


@pytest.mark.parametrize("depth", [1, 3])
def test_as_many_are_made_ahead_as_asked_for(depth):
    made = []

    def items():
        for number in range(20):
            made.append(number)
            yield number

    stream = prefetch(items(), depth)
    assert made == [], "nothing is made before somebody asks"
    assert next(stream) == 0
    # `depth` in the queue and one in the thread's hand.
    wait_for(lambda: len(made) == depth + 2)
    time.sleep(0.02)
    assert len(made) == depth + 2
    assert list(stream) == list(range(1, 20))


def test_an_error_comes_where_it_belongs():
    def items():
        yield 1
        yield 2
        raise OSError("the disk went away")

    stream = prefetch(items(), 4)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(OSError, match="the disk went away"):
        next(stream)
    assert not threads()


def test_leaving_early_stops_the_thread():
    made = []

    def endless():
        while True:
            made.append(threading.current_thread().name)
            yield len(made)

    for item in prefetch(endless(), 2):
        if item == 3:
            break
    wait_for(lambda: not threads())
    assert set(made) == {"prefetch"}
    assert len(made) <= 3 + 2 + 1


def test_the_end_leaves_no_thread():
    assert list(prefetch(iter([]), 2)) == []
    assert list(prefetch(iter(range(3)), 2)) == [0, 1, 2]
    assert not threads()


def test_a_depth_without_limit_is_refused():
    with pytest.raises(AssertionError, match="at least 1, got 0"):
        next(prefetch(iter([1]), 0))

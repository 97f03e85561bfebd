"""Prefetching does not change items, order or errors."""

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
def test_items_keep_their_order(items, data):
    depth = data.draw(st.integers(1, 4))
    assert list(prefetch(iter(items), depth)) == items


@pytest.mark.parametrize("depth", [1, 3])
def test_at_most_depth_items_are_prefetched(depth):
    produced = []

    def items():
        for number in range(20):
            produced.append(number)
            yield number

    stream = prefetch(items(), depth)
    assert produced == [], "nothing is produced before the first request"
    assert next(stream) == 0
    # `depth` items in the queue and one held by the thread.
    wait_for(lambda: len(produced) == depth + 2)
    time.sleep(0.02)
    assert len(produced) == depth + 2
    assert list(stream) == list(range(1, 20))


def test_errors_are_raised_in_order():
    def items():
        yield 1
        yield 2
        raise OSError("disk error")

    stream = prefetch(items(), 4)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(OSError, match="disk error"):
        next(stream)
    assert not threads()


def test_leaving_early_stops_the_thread():
    produced = []

    def endless():
        while True:
            produced.append(threading.current_thread().name)
            yield len(produced)

    for item in prefetch(endless(), 2):
        if item == 3:
            break
    wait_for(lambda: not threads())
    assert set(produced) == {"prefetch"}
    assert len(produced) <= 3 + 2 + 1


def test_the_thread_ends_with_the_items():
    assert list(prefetch(iter([]), 2)) == []
    assert list(prefetch(iter(range(3)), 2)) == [0, 1, 2]
    assert not threads()


def test_depth_zero_is_an_error():
    with pytest.raises(AssertionError, match="at least 1, got 0"):
        next(prefetch(iter([1]), 0))

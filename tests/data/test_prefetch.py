"""Prefetching: same items in the same order, limited depth, errors in their place, no thread left."""

import threading
import time

import pytest

from tssl_triton.data import Prefetcher


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_order(depth):
    with Prefetcher(range(100), depth) as items:
        assert list(items) == list(range(100))


def test_nothing_to_draw():
    with Prefetcher([]) as items:
        assert list(items) == []


def test_items_are_drawn_ahead_but_not_too_far():
    drawn = []
    with Prefetcher(drawn.append(n) or n for n in range(100)) as items:
        assert next(items) == 0
        wait_until(lambda: len(drawn) >= 4)
        time.sleep(0.05)
        # One is taken, two wait, and one more is made.
        assert drawn == [0, 1, 2, 3]
        next(items)
        wait_until(lambda: len(drawn) == 5)


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    with Prefetcher(items()) as ahead:
        assert [next(ahead), next(ahead)] == [1, 2]
        with pytest.raises(OSError, match="the disk is gone") as caught:
            next(ahead)
    assert any(entry.name == "items" for entry in caught.traceback), "the traceback leads to where it happened"


def test_an_error_of_the_user_stops_the_thread():
    def interrupted():
        with Prefetcher(iter(int, 1)) as items:
            next(items)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_leaving_early_stops_the_thread():
    drawn = []
    with Prefetcher(drawn.append(n) or n for n in range(10**9)) as items:
        for item in items:
            if item == 5:
                break
    count = len(drawn)
    time.sleep(0.02)
    assert len(drawn) == count <= 9


def test_leaving_while_an_item_is_being_made():
    made = threading.Event()

    def items():
        made.set()
        time.sleep(0.1)
        yield 1

    with Prefetcher(items()):
        made.wait()


@pytest.mark.parametrize(("depth", "kind"), [(0, ValueError), (1.5, TypeError)])
def test_depth(depth, kind):
    with pytest.raises(kind, match="depth must be an integer >= 1"):
        Prefetcher([], depth)


def wait_until(holds):
    for _ in range(500):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("waited five seconds in vain")

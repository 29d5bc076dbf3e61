"""A signal waits for the end of a step."""

from __future__ import annotations

import signal
import threading

import pytest

from geols_train.interrupt import ONE_REQUEST, Stopped, stop_between_steps


@pytest.fixture
def kept_handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_remembered(kept_handlers, number):
    def work():
        with stop_between_steps() as stop:
            seen.append(stop.requested)
            signal.raise_signal(number)
            seen.append(stop.requested)
            raise Stopped

    seen: list[bool] = []
    with pytest.raises(Stopped):
        work()
    assert seen == [False, True]


def test_a_signal_at_which_nobody_looked_ends_the_run(kept_handlers):
    with pytest.raises(KeyboardInterrupt), stop_between_steps():
        signal.raise_signal(signal.SIGTERM)


def test_without_a_signal_all_is_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with stop_between_steps():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_that_come_together_are_one_request_and_a_later_one_stops_at_once(kept_handlers, monkeypatch):
    def work():
        nonlocal now
        with stop_between_steps():
            signal.raise_signal(signal.SIGTERM)
            now += ONE_REQUEST
            signal.raise_signal(signal.SIGTERM)
            passed.append("together")
            now += 0.1
            signal.raise_signal(signal.SIGINT)
            passed.append("later")

    now, passed = 100.0, []
    monkeypatch.setattr("geols_train.interrupt.time.monotonic", lambda: now)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert passed == ["together"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_the_request_still_sends_is_passed_over_and_a_later_signal_is_not(kept_handlers, monkeypatch, number):
    now, heard = 100.0, []
    monkeypatch.setattr("geols_train.interrupt.time.monotonic", lambda: now)
    signal.signal(number, lambda *_: heard.append("heard"))
    with pytest.raises(KeyboardInterrupt), stop_between_steps():
        signal.raise_signal(number)
    now += ONE_REQUEST
    signal.raise_signal(number)
    assert not heard
    now += 0.1
    signal.raise_signal(number)
    signal.raise_signal(number)
    assert heard == ["heard", "heard"]


def test_other_threads_have_no_signals():
    def work():
        with stop_between_steps() as stop:
            assert not stop.requested
            results.append("done")

    results: list[str] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == ["done"]

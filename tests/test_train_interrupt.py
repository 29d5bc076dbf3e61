"""A signal waits for the end of a step."""

from __future__ import annotations

import signal
import threading

import pytest

from geols_train.interrupt import ONE_REQUEST, Stopped, stop_between_steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_check(number):
    before = signal.getsignal(number)
    try:
        with stop_between_steps() as stop:
            stop.check()
            signal.raise_signal(number)
            with pytest.raises(Stopped):
                stop.check()
    finally:
        signal.signal(number, before)


def test_without_a_signal_all_is_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with stop_between_steps():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_that_come_together_are_one_request_and_a_later_one_stops_at_once(monkeypatch):
    now = 100.0
    monkeypatch.setattr("geols_train.interrupt.time.monotonic", lambda: now)
    with stop_between_steps() as stop:
        signal.raise_signal(signal.SIGTERM)
        now += ONE_REQUEST
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        now += 0.1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_the_request_still_sends_is_passed_over_and_a_later_signal_is_not(monkeypatch, number):
    now, heard = 100.0, []
    monkeypatch.setattr("geols_train.interrupt.time.monotonic", lambda: now)
    before = signal.signal(number, lambda *_: heard.append("heard"))
    try:
        with stop_between_steps():
            signal.raise_signal(number)
        now += ONE_REQUEST
        signal.raise_signal(number)
        assert not heard
        now += 0.1
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert heard == ["heard", "heard"]
    finally:
        signal.signal(number, before)


def test_other_threads_have_no_signals():
    def work():
        with stop_between_steps() as stop:
            stop.check()
            results.append("done")

    results: list[str] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == ["done"]

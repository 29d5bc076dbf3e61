"""A signal waits for the end of a step."""

from __future__ import annotations

import signal
import threading

import pytest

from geols_train.interrupt import ONE_REQUEST, Stopped, stop_between_steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_check(number):
    before = signal.getsignal(number)
    with stop_between_steps() as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(Stopped):
            stop.check()
    assert signal.getsignal(number) is before


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

"""Signals: one waits for the end of a step, for workers to start, or is ignored."""

from __future__ import annotations

import signal
import threading

import pytest

from geols_precompute.signals import ONE_REQUEST, Stopped, defer_interrupts, ignore_interrupts, stop_between_steps


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
    monkeypatch.setattr("geols_precompute.signals.time.monotonic", lambda: now)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert passed == ["together"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_the_request_still_sends_is_passed_over_and_a_later_signal_is_not(kept_handlers, monkeypatch, number):
    now, heard = 100.0, []
    monkeypatch.setattr("geols_precompute.signals.time.monotonic", lambda: now)
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


def test_ctrl_c_waits_for_the_end_of_what_defers_it():
    def work():
        with defer_interrupts():
            signal.raise_signal(signal.SIGINT)
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
            reached.append("the end")

    before = signal.getsignal(signal.SIGINT)
    reached: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_error_goes_before_a_deferred_ctrl_c():
    def work():
        with defer_interrupts():
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()


def test_ctrl_c_is_ignored_while_something_is_closed():
    with ignore_interrupts():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("context", [stop_between_steps, defer_interrupts, ignore_interrupts])
def test_in_other_threads_nothing_changes(context):
    def work():
        before = signal.getsignal(signal.SIGINT)
        with context() as stop:
            assert stop is None or not stop.requested
            assert signal.getsignal(signal.SIGINT) is before
            results.append("done")

    results: list[str] = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == ["done"]

from __future__ import annotations

import io
import itertools
import sys

import pytest

from geols_precompute.progress import Progress, TerminalProgress, show_progress


def test_by_default_nobody_hears_anything(capfd):
    silent = Progress()
    silent.say("text")
    with silent.cases(2, "maps") as on_case:
        on_case("a", "")
        on_case("b", "bad")
    assert capfd.readouterr() == ("", "")


def test_a_bar_that_no_terminal_shows_is_short_and_tells_the_end(capsys):
    with show_progress(1000, "maps") as on_case:
        for number in range(1000):
            on_case(str(number), "bad" if number % 500 == 7 else "")
    shown = capsys.readouterr()
    assert shown.out == ""
    updates = shown.err.strip().split("\r")
    assert len(updates) < 5
    assert updates[-1].startswith("maps: 100%")
    assert "1000/1000" in updates[-1]
    assert "2 failed" in updates[-1]


def test_a_terminal_sees_the_bar_move(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    seconds = itertools.count()  # one goes by whenever somebody looks at the clock
    monkeypatch.setattr("tqdm.std.time", lambda: next(seconds))
    with show_progress(3, "maps") as on_case:
        for case in "abc":
            on_case(case, "")
    shown = sys.stderr.getvalue()
    for count in ("0/3", "1/3", "2/3", "3/3"):
        assert count in shown


def test_an_error_ends_the_bar_and_passes():
    def stopped_after_one():
        with show_progress(3, "maps") as on_case:
            on_case("a", "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped_after_one()


def test_there_is_no_bar_of_no_case(capsys):
    with show_progress(0, "maps"):
        pass
    assert capsys.readouterr() == ("", "")


def test_the_commands_print_lines_at_once_and_show_bars(capsys):
    terminal = TerminalProgress()
    terminal.say("2 workers")
    with terminal.cases(1, "maps") as on_case:
        on_case("a", "")
    shown = capsys.readouterr()
    assert shown.out == "2 workers\n"
    assert "1/1" in shown.err

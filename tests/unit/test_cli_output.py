"""What commands print: one harmless line per row, times that are short and UTC, JSON with Z."""

import io
import json
import os
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest

from workers.cli import output
from workers.cli.output import Cell, Column

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    at: datetime | None


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain [bold]text[/bold] ü 漢字 …", "plain [bold]text[/bold] ü 漢字 …"),
        ("two\nlines\r\nand\ttab", "two lines  and tab"),
        ("line\u2028separator\u0085", "line separator "),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\u202eevil \u2066", r"\u202eevil \u2066"),
        ("\udcff lone", r"\udcff lone"),
        ("nul\x00", r"nul\x00"),
    ],
)
def test_text_becomes_one_line_that_can_do_nothing(raw: str, shown: str) -> None:
    assert output.visible(raw) == shown
    assert output.visible(raw).isprintable()


def test_json_of_a_row_has_its_fields_in_order_and_times_in_utc_with_z() -> None:
    elsewhere = datetime(2026, 11, 24, 14, 30, tzinfo=timezone(timedelta(hours=2)))
    assert output.json_of(Row("x\x1b", elsewhere)) == (
        '{"name": "x\\u001b", "at": "2026-11-24T12:30:00.000000Z"}'
    )
    assert output.json_of({"rows": [Row("a", None)]}) == '{"rows": [{"name": "a", "at": null}]}'


def test_array_is_valid_json_with_one_row_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for number in (0, 1, 3):
        output.write_json_array(iter([Row(f"row {n}", None) for n in range(number)]))
        printed = capsys.readouterr().out
        assert [row["name"] for row in json.loads(printed)] == [f"row {n}" for n in range(number)]
        assert printed.count("\n") == (1 if number == 0 else number + 2)


def test_table_in_a_pipe_folds_and_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_table([Column("A"), Column("B")], [["x" * 300, Cell("one\ntwo", "red")], ["y", ""]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["A".ljust(302) + "B", "x" * 300 + "  one two", "y"]
    output.write_table([Column("A")], [])
    assert capsys.readouterr().out == ""


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_fields("Site [/x]", [("domain", "a.example.com"), ("nothing", ""), ("to do", Cell("do it"))])
    assert capsys.readouterr().out == "Site [/x]\n  domain  a.example.com\n  to do   do it\n"


def test_character_that_the_terminal_cannot_show_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    output.write_line("für \udcff", flush=True)
    assert raw.getvalue() == b"f\\xfcr \\udcff\n"


@pytest.mark.parametrize(
    ("instant", "shown"),
    [
        (None, ""),
        (NOW + timedelta(hours=1), "13:30 UTC"),
        (NOW + timedelta(days=1), "25 Nov 12:30 UTC"),
        (NOW + timedelta(days=100), "4 Mar 2027 12:30 UTC"),
        (NOW.astimezone(timezone(timedelta(hours=-13))), "12:30 UTC"),
    ],
)
def test_instant_is_as_short_as_it_can_be(instant: datetime | None, shown: str) -> None:
    assert output.moment_of(instant, NOW) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "in 0 s"), (119, "in 119 s"), (300, "in 5 min"), (-7300, "2 h ago"), (64 * 86_400, "in 64 days")],
)
def test_distance_is_told_by_its_largest_unit(seconds: int, shown: str) -> None:
    assert output.from_now(NOW + timedelta(seconds=seconds), NOW) == shown


def test_day_is_utc_and_independent_of_the_locale() -> None:
    assert output.day_of(datetime(2027, 3, 4, 23, 30, tzinfo=timezone(timedelta(hours=-2)))) == "5 Mar 2027"
    assert output.day_of(None) == ""


def test_closed_pipe_is_noticed_without_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert not output.reader_is_gone()
        os.close(read_end)
        assert output.reader_is_gone()
    with open(os.devnull, "w") as stream:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", stream)
        assert not output.reader_is_gone()


@pytest.mark.parametrize(
    ("locale", "unicode"), [("C", False), ("POSIX", False), ("C.UTF-8", True), ("", True)]
)
def test_plain_c_locale_is_not_trusted_with_unicode(
    monkeypatch: pytest.MonkeyPatch, locale: str, unicode: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    monkeypatch.delenv("LC_CTYPE", raising=False)
    monkeypatch.delenv("LANG", raising=False)
    monkeypatch.setenv("LC_ALL", locale)
    assert output.shows_unicode() is unicode

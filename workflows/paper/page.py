"""Pages: headings, text, tables and pictures, written as Markdown with CSV files, or as one HTML file."""

from __future__ import annotations

import base64
import csv
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Emphasis = Literal["", "best", "second"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a table shows at a place, and, for its CSV, the bare numbers behind it by column suffix."""

    text: str
    emphasis: Emphasis = ""
    numbers: tuple[tuple[str, float | str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: the name of its CSV file, what it shows, its column names and rows."""

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A picture beside the page, and what it shows, which is also its text for who cannot see it."""

    path: Path
    caption: str


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading below the title of the page."""

    text: str


Block = Heading | Table | Figure | str

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
:root { color-scheme: light dark; }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; padding: .3rem 0; }
td, th { padding: .2rem .7rem; border-bottom: 1px solid #8886; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; background: white; }
.scroll { overflow-x: auto; }
"""


def write_markdown(path: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write the page, and a CSV file beside it for every table."""
    parts = [f"# {title}"]
    for block in blocks:
        match block:
            case Heading(text=text):
                parts.append(f"## {text}")
            case Table():
                _write_csv(path.parent / f"{block.name}.csv", block)
                parts.append(f"{block.caption} ([CSV]({block.name}.csv))\n\n{_markdown_table(block)}")
            case Figure():
                parts.append(f"![{block.caption}]({block.path.name})\n\n*{block.caption}*")
            case str():
                parts.append(block)
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_html(path: Path, title: str, blocks: Sequence[Block]) -> None:
    """Write the page as one file that needs nothing else."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for block in blocks:
        match block:
            case Heading(text=text):
                parts.append(f"<h2>{html.escape(text)}</h2>")
            case Table():
                parts.append(_html_table(block))
            case Figure():
                data, caption = base64.b64encode(block.path.read_bytes()).decode(), html.escape(block.caption)
                parts.append(
                    f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
                    f"<figcaption>{caption}</figcaption></figure>"
                )
            case str():
                parts.append(f"<p>{html.escape(block)}</p>")
    head = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>',
        f"<style>{_STYLE}</style></head>\n<body>",
    ]
    path.write_text("\n".join([*head, *parts, "</body></html>\n"]), encoding="utf-8")


def _markdown_table(table: Table) -> str:
    marks = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}
    lines = [f"| {' | '.join(table.header)} |", f"|---|{'---:|' * (len(table.header) - 1)}"]
    lines += [f"| {' | '.join(marks[cell.emphasis].format(cell.text) for cell in row)} |" for row in table.rows]
    return "\n".join(lines)


def _html_table(table: Table) -> str:
    marks = {"": "{}", "best": "<strong>{}</strong>", "second": "<u>{}</u>"}
    header = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.header)
    rows = "\n".join(
        f"<tr>{''.join(f'<td>{marks[c.emphasis].format(html.escape(c.text))}</td>' for c in row)}</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table><caption>{html.escape(table.caption)}</caption>'
        f"<thead><tr>{header}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def _write_csv(path: Path, table: Table) -> None:
    """Write a table with a column for each of the numbers of a cell."""
    header = [
        f"{name} {suffix}".strip()
        for name, cell in zip(table.header, table.rows[0], strict=True)
        for suffix, _ in cell.numbers or (("", ""),)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in table.rows:
            writer.writerow(value for cell in row for _, value in cell.numbers or (("", cell.text),))

"""The notebook of the tutorial, made of its page: text, Python, and commands behind an exclamation mark.

Usage: python workflows/notebook.py      (docs/tutorial.md to docs/tutorial.ipynb)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"


def main() -> None:
    (DOCS / "tutorial.ipynb").write_text(notebook((DOCS / "tutorial.md").read_text()))


def notebook(page: str) -> str:
    """Return a page in Markdown as a notebook, nbformat 4.5; links to other pages stay as they are."""
    cells: list[dict[str, Any]] = []
    # text and blocks take turns: text, language, block, text, ...
    text, *rest = re.split(r"```(python|bash)\n(.*?)```\n", page, flags=re.DOTALL)
    cells.append({"cell_type": "markdown", "source": text.strip()})
    for language, block, following in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        commands = re.sub(r"^(?=geols-)", "!", block, flags=re.MULTILINE) if language == "bash" else block
        cells.append({"cell_type": "code", "source": commands.strip(), "outputs": [], "execution_count": None})
        cells.append({"cell_type": "markdown", "source": following.strip()})
    for number, cell in enumerate(cells):
        cell |= {"id": f"cell-{number}", "metadata": {}, "source": cell["source"].splitlines(keepends=True)}
        cells[number] = cell
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    document = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    main()

"""Imports that a test takes away, and where the repository is."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""

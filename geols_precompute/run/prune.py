"""Drops from the stores the cases that are not in the data any more."""

from __future__ import annotations

import os

from geols_precompute.atomic import writing_to
from geols_precompute.run.finalize import stores_in
from geols_precompute.run.plan import Plan
from geols_precompute.store.writer import amend_manifest, remove_case


def prune(plan: Plan) -> tuple[str, ...]:
    """Remove the plan's strays from its two stores and from those of other recipes beside them; return their names.

    The manifests come first: what they list is there at any time.

    Raises:
        StoreError: something in the folder of such a case was not written by this package.
        OutputError: a store cannot be written.
    """
    with writing_to(plan.out):
        for root in stores_in(plan.out):
            amend_manifest(root, without=plan.strays)
            for case in plan.strays:
                if os.path.lexists(root / case):
                    remove_case(root, case)
    return plan.strays

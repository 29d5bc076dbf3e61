"""Merges label stores of one recipe and class table, for instance the parts that several labs computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geols_precompute.digests import canonical_json
from geols_precompute.errors import StoreError
from geols_precompute.progress import OnCase
from geols_precompute.recipe.parameters import recipe_differences
from geols_precompute.share.copy import CopySummary, copy_cases, filling
from geols_precompute.store import guards
from geols_precompute.store.layout import group_metadata
from geols_precompute.store.reader import LabelStore


def merge(stores: Sequence[LabelStore], root: Path, on_case: OnCase) -> CopySummary:
    """Copy the cases of all stores into the one at `root`; a case that several have is copied once.

    The manifest is not written.

    Raises:
        StoreError: recipes or class tables differ, or two stores have unequal cases of one name; nothing is written.
        OSError: `root` cannot be written.
    """
    require_one_recipe(stores)
    sources = choose_sources(stores)
    summaries = []
    with filling(root, merged_root(stores)) as check:
        for store in stores:
            cases = [case for case in store.cases if sources[case] is store]
            summaries.append(copy_cases(store, root, cases, on_case, check=check))
    return CopySummary(
        copied=sum(summary.copied for summary in summaries),
        found=sum(summary.found for summary in summaries),
        failures={case: reason for summary in summaries for case, reason in summary.failures.items()},
    )


def require_one_recipe(stores: Sequence[LabelStore]) -> None:
    """Refuse stores whose versions, recipes or class tables differ.

    Raises:
        StoreError: naming the parameters.
    """
    first = stores[0]
    for store in stores[1:]:
        one, other = ({key: s.geols[key] for key in ("version", "recipe", "classes")} for s in (first, store))
        if found := recipe_differences(one, other):
            raise StoreError(
                f"{store.files.location} and {first.files.location} were made with other parameters "
                f"({'; '.join(found)}); only stores of one version, recipe and class table can be united"
            )


def choose_sources(stores: Sequence[LabelStore]) -> dict[str, LabelStore]:
    """Return the store that each case is taken from: the first that has it.

    Raises:
        StoreError: two stores have unequal cases of one name, letter case aside.
    """
    sources: dict[str, LabelStore] = {}
    spelling: dict[str, str] = {}
    problems = []
    for store in stores:
        for case in store.cases:
            first = spelling.setdefault(case.lower(), case)
            source = sources.setdefault(first, store)
            if first != case or source.manifest.cases[first] != store.manifest.cases[case]:
                problems.append(f"{case} ({source.files.location}/{first} and {store.files.location}/{case})")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise StoreError(
            f"unequal cases have one name: {', '.join(problems[:5])}{more}; pull or unpack one of the stores without "
            "them (--cases), or rename them"
        )
    return sources


def merged_root(stores: Sequence[LabelStore]) -> bytes:
    """Return the root zarr.json of the merged store: that of the stores, with the licences and citations of all.

    Raises:
        StoreError: two stores were made on machines that do not give the same maps.
    """
    if len({store.root_content for store in stores}) == 1:
        return stores[0].root_content
    geols: dict[str, Any] = json.loads(canonical_json(dict(stores[0].geols)))
    for key in guards.TERMS:
        texts = {store.geols.get(key, "") for store in stores} - {""}
        geols |= {key: "; ".join(sorted(texts))} if texts else {}
    checks = {store.geols[guards.CHECK]: store for store in stores if guards.CHECK in store.geols}
    if len(checks) > 1:
        one, other = list(checks.values())[:2]
        raise StoreError(
            f"{one.files.location} and {other.files.location} were finished on machines that do not give the same maps "
            f"({guards.CHECK} differs); compute one of them again, and see which geols-store verify confirms"
        )
    if checks:
        (geols[guards.CHECK],) = checks
    return canonical_json(group_metadata({"geols": geols}))

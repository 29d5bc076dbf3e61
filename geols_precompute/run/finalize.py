"""The manifests of stores that several runs, or parts of one, have filled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geols_precompute.atomic import remove_abandoned
from geols_precompute.errors import MissingExtraError, RecipeError, StoreError
from geols_precompute.recipe.parameters import MapParameters
from geols_precompute.run import state
from geols_precompute.store.guards import CHECK
from geols_precompute.store.layout import METADATA, VERSION, VOLUMES
from geols_precompute.store.writer import enter_check, read_attributes, whole_cases, write_manifest


def stores_in(path: Path) -> list[Path]:
    """Return `path` if it is a store, or the stores in the output folder `path`.

    Raises:
        StoreError: it is neither.
    """
    if (path / METADATA).exists():
        return [path]
    if stores := sorted(folder for folder in path.glob("*.zarr") if (folder / METADATA).exists()):
        return stores
    raise StoreError(f"{path}: no store, and none in it; name the output folder of geols-precompute, or a store")


@dataclass(frozen=True, kw_only=True)
class Finalized:
    """A store with its manifest.

    Attributes:
        cases: how many it has.
        digest: of the store.
        left_out: cases that lie in its folder and are not in the manifest, and why.
    """

    cases: int
    digest: str
    left_out: Mapping[str, str]


def finalize(root: Path, *, partial: bool) -> Finalized:
    """Write the manifest over the committed cases of a store.

    Left out are cases that failed when they were tried last, or were to be computed again and were not, as what is
    there of them may not fit their files any more, and maps made from other files than the volume beside them.

    Raises:
        StoreError: the store is damaged, or planned cases are missing and `partial` is false.
        OSError: it cannot be written.
    """
    beside = root.parent / VOLUMES
    failures = state.known_failures(root.parent, None if root == beside else root.stem)
    sources = {case: geols["source"] for case, geols in whole_cases(root)}
    if root != beside and beside.is_dir():
        for case, geols in whole_cases(beside):
            if case in sources and sources[case] != geols["source"]:
                failures.setdefault(case, "its maps were made from other files than its volume")
    committed = set(sources) - set(failures)
    missing = sorted(set(state.planned_cases(root.parent)) - committed)
    if missing and not partial:
        raise StoreError(f"{root}: {describe_missing(missing, failures)}")
    remove_abandoned(root)
    check_machine(root)
    return Finalized(
        cases=len(committed),
        digest=write_manifest(root, leave_out=failures),
        left_out={case: reason for case, reason in sorted(failures.items()) if case in sources},
    )


def check_machine(root: Path) -> None:
    """Enter into a label store what the check case gives on this machine, which `geols-store verify` compares.

    A store that says so already keeps it. Nothing is entered where the maps of its recipe cannot be computed: it is not
    of this release, or a package is not installed here.

    Raises:
        StoreError: the root is damaged.
        OSError: it cannot be written.
    """
    geols = read_attributes(root)
    if geols.get("format") != "geols-labels" or geols.get("version") != VERSION or CHECK in geols:
        return
    try:
        from geols_precompute.maps.check import check_sha256

        recipe = geols["recipe"]
        parameters = MapParameters.from_json(recipe["maps"])
        enter_check(root, check_sha256(parameters, len(recipe["preprocessing"]["modalities"])))
    except (MissingExtraError, ModuleNotFoundError, RecipeError):
        return
    except (LookupError, TypeError) as error:
        raise StoreError(f"{root / METADATA}: the recipe is not as the format has it ({error!r})") from error


def describe_missing(missing: Sequence[str], failures: Mapping[str, str]) -> str:
    """Return how many cases are missing, the first with its reason, and what to do."""
    reason = f" ({failures[missing[0]]})" if missing[0] in failures else ""
    count = (
        "1 planned case is missing:" if len(missing) == 1 else f"{len(missing)} planned cases are missing, the first is"
    )
    return (
        f"{count} {missing[0]}{reason}; run geols-precompute again, or "
        "the part that did not end, to compute them, or give --partial to leave them out"
    )

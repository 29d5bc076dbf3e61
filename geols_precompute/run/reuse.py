"""Maps that another label store holds already, taken for the cases whose data and recipe are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from geols_precompute.atomic import readers_of
from geols_precompute.data.geometry import Geometry
from geols_precompute.errors import RecipeError, StoreError
from geols_precompute.recipe.parameters import ResolvedRecipe, recipe_differences
from geols_precompute.share.export import file_of
from geols_precompute.share.remote import is_url
from geols_precompute.store.layout import MAPS
from geols_precompute.store.reader import LabelStore
from geols_precompute.store.verify import CasesBySource
from geols_precompute.store.writer import commit_case


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """A label store to take maps from.

    Attributes:
        path: of its folder or archive.
        digest: it must still have when a worker opens it.
        by_name: take the maps of a case only under its own id, on which random seeds depend.
    """

    path: Path
    digest: str
    by_name: bool

    @classmethod
    def of(cls, store: str, recipe: ResolvedRecipe) -> Reuse:
        """Open a label store, a folder or an archive on this machine, to take maps of this recipe from.

        Raises:
            StoreError: it cannot be opened.
            RecipeError: its maps were made with other parameters, or for other classes.
        """
        if is_url(store):
            raise RecipeError(f"--reuse {store}: fetch it first, with geols-store pull, and give the folder")
        path, opened = Path(store).absolute(), LabelStore.open(store)
        differing = recipe_differences(
            {**recipe.as_json(), "class values": list(recipe.classes.values)},
            {**opened.recipe, "class values": list(opened.classes.values)},
        )
        if differing:
            raise RecipeError(
                f"--reuse {path}: its maps were made with other parameters ({'; '.join(differing)}); give the same "
                "ones, or leave --reuse out"
            )
        return cls(path=path, digest=opened.digest, by_name=recipe.maps.seeds.startswith("random-"))

    def take(
        self,
        case: str,
        source: Mapping[str, Any],
        geometry: Geometry,
        root: Path,
        *,
        check: Callable[[], None],
        readers: int,
    ) -> bool:
        """Commit the maps of a case from this store to the one at `root`; whether there were any.

        Args:
            case: id, in the store at `root`.
            source: fingerprints of its data.
            geometry: of its prepared volume.
            root: of the label store to fill.
            check: called just before the commit; see `commit_case`.
            readers: permission bits that the case may have; see there.

        Raises:
            StoreError: what is there is damaged.
            OSError: it cannot be written.
        """
        cases = _opened(self)
        found = cases.find(case, source)
        if found is None or (self.by_name and found != case):
            return False
        metadata = cases.store.metadata(found)
        if metadata.geometry != Geometry.from_json(geometry.as_json()):
            raise StoreError(f"{self.path}/{found}: its maps have another size, spacing or place than the volume")
        commit_case(
            root,
            case,
            {MAPS.name: cases.store.maps(found)},
            geometry,
            {key: metadata.geols[key] for key in ("source", "present", "channels", "seeds", "stats")},
            check=check,
            readers=readers & readers_of([file_of(cases.store, found)], root),
        )
        return True


@lru_cache(maxsize=1)
def _opened(reuse: Reuse) -> CasesBySource[LabelStore]:
    """Open a store once in a worker."""
    store = LabelStore.open(reuse.path)
    if store.digest != reuse.digest:
        raise StoreError(f"{reuse.path}: changed while its maps were taken; run again")
    return CasesBySource(store)

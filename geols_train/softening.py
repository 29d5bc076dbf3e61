"""Soft labels that are made when a case is read: with a width in mm, or the mean of raters.

They are cut from the volume as if it had been made soft whole: as much of the label is read around a window as can
change a voxel in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from geols_precompute.arrays import Float32Array, Window
from geols_precompute.softlabel import MethodName, mean_of_raters, reach, soft_label
from geols_precompute.store.reader import VolumeStore
from geols_train.config import TrainConfig
from geols_train.targets import METHODS


@dataclass(frozen=True, kw_only=True)
class Softening:
    """How the soft label of a case is made from a volume store; see `geols_precompute.soft_label`.

    Attributes:
        method: one that is made on load.
        alpha: share of the smooth part.
        width: of the smooth part; None for a method that has none.
    """

    method: MethodName
    alpha: float
    width: float | None

    @classmethod
    def of(cls, config: TrainConfig) -> Self | None:
        """Return what a configuration asks for; None if its soft labels are made on the device."""
        if not METHODS[config.method].is_made_on_load:
            return None
        return cls(method=config.method, alpha=config.alpha, width=config.width)

    def examine(self, volumes: VolumeStore, case: str) -> None:
        """Read what the method needs of a case beside its label.

        Raises:
            InputError, StoreError: as `soft_label` does.
        """
        if self.method == "raters":
            volumes.raters(case)

    def soft_label(self, volumes: VolumeStore, case: str, window: Window | None) -> Float32Array:
        """Return the soft label of a window, or of the whole volume, [class,z,y,x].

        Raises:
            InputError: the method needs raters, and the store keeps none.
            StoreError: the case is missing or damaged.
        """
        n_classes = len(volumes.classes)
        if self.method == "raters":
            mean = mean_of_raters([*volumes.raters(case, window).values()], n_classes)
            return soft_label(volumes.label(case, window), mean, method=self.method)
        geometry = volumes.metadata(case).geometry
        around, inside = window, (slice(None), slice(None), slice(None))
        if window is not None and self.width is not None:
            margins = reach(self.method, geometry.spacing_zyx, self.width)
            around, inside = _wider(window, margins, geometry.shape_zyx)
        soft = soft_label(
            volumes.label(case, around),
            method=self.method,
            n_classes=n_classes,
            alpha=self.alpha,
            spacing=geometry.spacing_zyx,
            width=self.width,
        )
        return soft[(slice(None), *inside)]


def _wider(window: Window, margins: tuple[int, ...], shape: tuple[int, int, int]) -> tuple[Window, Window]:
    """Return a window with margins, as far as the volume goes, and where in it the window lies."""
    pairs = [
        (slice(start, min(n, s.stop + margin)), slice(s.start - start, s.stop - start))
        for s, margin, n in zip(window, margins, shape, strict=True)
        for start in [max(0, s.start - margin)]
    ]
    (z, in_z), (y, in_y), (x, in_x) = pairs
    return (z, y, x), (in_z, in_y, in_x)

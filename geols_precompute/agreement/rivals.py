"""Soft labels that need no store: what GeoLS has to be better than."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from geols_precompute.arrays import Float32Array
from geols_precompute.softlabel import MethodName, soft_label

#: Of a label map [z,y,x] of class indices, its spacing (z,y,x) in mm and the number of classes: [class,z,y,x].
Rival = Callable[[NDArray[np.integer], Sequence[float], int], Float32Array]


def rivals(sigmas_mm: Sequence[float] = (1.0,)) -> Mapping[str, Rival]:
    """Return the rivals by name: the one-hot label, LS and SVLS of the paper, Gaussians and a signed distance in mm."""
    return {
        "hard": _rival("ce"),
        "LS": _rival("ls"),
        "SVLS": _rival("svls"),
        **{f"Gaussian {sigma:g} mm": _rival("gauss", sigma) for sigma in sigmas_mm},
        "signed distance": _rival("sdf"),
    }


def _rival(method: MethodName, width: float | None = None) -> Rival:
    return lambda label, spacing, n: soft_label(label, method=method, n_classes=n, spacing=spacing, width=width)

"""Which patients calibrate or choose, and which test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

Half = Literal["fit", "test"]


def halves(patients: Mapping[str, str], seed: int) -> dict[str, Half]:
    """Return the half of each case; all cases of a patient are in one.

    The patients in ascending order are permuted by NumPy's default_rng(seed); the first half of them, the odd one
    included, is "fit".
    """
    names = sorted(set(patients.values()))
    order = np.random.default_rng(seed).permutation(len(names))
    fit = {names[place] for place in order[: (len(names) + 1) // 2]}
    return {case: "fit" if patient in fit else "test" for case, patient in patients.items()}

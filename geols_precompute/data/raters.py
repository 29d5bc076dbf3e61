"""Several raters to one label map: one of them, or a consensus of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from geols_precompute.arrays import Int32Array
from geols_precompute.data.cases import Case
from geols_precompute.errors import InputError
from geols_precompute.recipe.parameters import CONSENSUS, Preprocessing


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The label files to read of a case.

    Attributes:
        label: the file of the label map, or of the first rater where it is a consensus.
        rule: of the consensus; None where one rater is chosen.
        raters: the files to read beside it, by rater: those of a consensus, or to be kept.
    """

    label: Path
    rule: str | None
    raters: Mapping[str, Path]


def chosen(case: Case, preprocessing: Preprocessing) -> Choice:
    """Return which label files of a case are read, and what is made of them.

    Raises:
        InputError: it has several raters and none is chosen, or not the one that is.
    """
    assert case.label is not None
    rater = preprocessing.rater
    if not case.raters:
        if rater is not None:
            raise InputError(f"{case.label}: one label map, of no named rater, where rater {rater} is asked for")
        return Choice(label=case.label, rule=None, raters={})
    names = ", ".join(case.raters)
    if rater is None:
        raise InputError(
            f"{case.label}: one of several label maps, of the raters {names}; choose with --rater: a name, "
            f"{', '.join(CONSENSUS[:-1])} or {CONSENSUS[-1]}"
        )
    if rater in CONSENSUS:
        return Choice(label=case.label, rule=rater, raters=case.raters)
    if rater not in case.raters:
        raise InputError(f"{case.label}: the case has no rater {rater}; it has {names}")
    return Choice(label=case.raters[rater], rule=None, raters=case.raters if preprocessing.keep_raters else {})


def consensus(labels_RZYX: Int32Array, rule: str) -> Int32Array:
    """Return one label map [z,y,x] of those of several raters [rater,z,y,x], whole numbers, int32.

    - majority: the value that most raters give; of values with equally many, the lowest, so that the background wins.
    - union: the same among the values above 0, wherever a rater gives one.
    - staple: what is most likely if raters err at rates of their own (Warfield et al. 2004; for several classes
      Rohlfing et al. 2004), by SimpleITK; where it does not decide, the majority. It depends on the field of view.
    """
    values = np.unique(labels_RZYX)
    if rule == "union":
        foreground = values[values > 0]
        if not foreground.size:
            return np.zeros(labels_RZYX.shape[1:], np.int32)
        return np.where((labels_RZYX > 0).any(axis=0), _most_given(labels_RZYX, foreground), 0).astype(np.int32)
    majority_ZYX = _most_given(labels_RZYX, values)
    if rule == "majority" or len(values) < 2:
        return majority_ZYX
    undecided = len(values)
    images = [sitk.GetImageFromArray(np.searchsorted(values, label).astype(np.uint16)) for label in labels_RZYX]
    staple = sitk.MultiLabelSTAPLEImageFilter()
    staple.SetLabelForUndecidedPixels(undecided)
    found_ZYX = sitk.GetArrayFromImage(staple.Execute(images))
    decided = found_ZYX < undecided
    return np.where(decided, values[np.where(decided, found_ZYX, 0)], majority_ZYX).astype(np.int32)


def _most_given(labels_RZYX: Int32Array, values: Int32Array) -> Int32Array:
    """Return, per voxel, which of the ascending `values` most raters give, the lowest on ties."""
    most = np.zeros(labels_RZYX.shape[1:], np.int32)
    found = np.full(labels_RZYX.shape[1:], values[0], np.int32)
    for value in values:
        votes = np.count_nonzero(labels_RZYX == value, axis=0)
        found[votes > most] = value
        np.maximum(most, votes, out=most)
    return found

"""Splits: which cases train, validate and test, drawn by a rule or read from a file, with every patient whole."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from geols_precompute.data.patients import patients_of
from geols_precompute.errors import InputError, RecipeError
from geols_precompute.formatting import plural
from geols_train.config import read_small

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Case ids of each part; `test` may be empty.

    `patients` is {case: patient} of its cases, if a patient may have several; else every case is a patient.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...] = ()
    patients: Mapping[str, str] = field(default_factory=dict)

    @property
    def cases(self) -> tuple[str, ...]:
        """Every case of the split."""
        return (*self.train, *self.validation, *self.test)

    def as_json(self) -> dict[str, Any]:
        """Return the document of a split.json."""
        parts: dict[str, Any] = {part: list(getattr(self, part)) for part in PARTS}
        return parts | ({"patients": dict(self.patients)} if self.patients else {})


def make_split(rule: str, cases: Sequence[str], *, seed: int, group: str | None = None) -> Split:
    """Return the split that `rule` asks for.

    Args:
        rule: counts ("140,20,40") or fractions ("0.7,0.1,0.2") of train, validation and test, of patients if they are
            known, or a file: a split.json of a run, or nnU-Net's splits_final.json, where "splits_final.json:3" is
            fold 3 (0 if not said).
        cases: ids there are.
        seed: of the drawing.
        group: which case is of which patient; see `patients_of`. None leaves that to the file, if it says so.

    Raises:
        InputError: the rule or file is not valid, names unknown cases or one twice, needs more cases, or has a patient
            in two parts.
    """
    numbers = _three_numbers(rule)
    patients = {} if group is None else patients_of(group, cases)
    if numbers is None:
        split = _read(rule)
        known = {case: patients[case] for case in split.cases if case in patients}
        return checked_split(replace(split, patients=known or split.patients), cases, rule)
    return draw_split(cases, numbers, seed=seed, patients=patients)


def draw_split(
    cases: Sequence[str], numbers: Sequence[float], *, seed: int, patients: Mapping[str, str] | None = None
) -> Split:
    """Draw a split: sorted ids, `default_rng(seed).permutation`, then the counts in order train, validation, test.

    Where patients are known, theirs are the ids that are drawn and counted, and a patient's cases follow in order.

    Args:
        cases: ids there are.
        numbers: three counts, or three fractions of which one at least is below 1 and the sum is at most 1.
        seed: of the permutation.
        patients: of every case; None makes each case a patient.

    Raises:
        InputError: the numbers do not make sense, or need more cases than there are.
    """
    units: dict[str, list[str]] = {}
    for case in sorted(cases):
        units.setdefault((patients or {}).get(case, case), []).append(case)
    counts = _counts(numbers, len(units))
    if sum(counts) > len(units):
        listed = ",".join(f"{n:g}" for n in numbers)
        # fractions never ask for more than one unit of each part that there is not
        asked = f"--split {listed}" if _are_counts(numbers) else "a split into training, validation and test"
        raise InputError(
            f"{asked} needs {sum(counts)} {'patients' if patients else 'cases'}, but the stores hold {len(units)}; "
            f"{_smaller(len(units))}"
        )
    order = [units[sorted(units)[i]] for i in np.random.default_rng(seed).permutation(len(units))]
    train, validation, test = ([case for unit in order[a:b] for case in unit] for a, b in _bounds(counts))
    drawn = Split(train=tuple(train), validation=tuple(validation), test=tuple(test))
    return replace(drawn, patients={case: patients[case] for case in drawn.cases}) if patients else drawn


def _bounds(counts: Sequence[int]) -> list[tuple[int, int]]:
    ends = list(itertools.accumulate(counts, initial=0))
    return list(itertools.pairwise(ends))


def _smaller(cases: int) -> str:
    """Return what a person with so few cases can do."""
    if cases < 2:
        return "a training needs one case to train and another to validate: compute more"
    if cases == 2:
        return "--split 1,1,0 trains on one and validates on the other, and tests on that one too"
    return "ask for fewer"


def is_drawn(rule: str) -> bool:
    """Whether a rule draws a split, and does not read it from a file.

    Raises:
        InputError: it is neither.
    """
    return _three_numbers(rule) is not None


def _three_numbers(rule: str) -> list[float] | None:
    try:
        numbers = [float(part) for part in rule.split(",")]
    except ValueError:
        return None
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"--split {rule}: every number must be finite")
    if len(numbers) != 3:
        raise InputError(f"--split {rule}: three numbers are needed (train, validation, test), or a file")
    return numbers


def _are_counts(numbers: Sequence[float]) -> bool:
    return all(float(v).is_integer() for v in numbers)


def _counts(numbers: Sequence[float], n: int) -> tuple[int, int, int]:
    asked = ",".join(f"{v:g}" for v in numbers)
    train, validation, test = numbers
    if min(train, validation) <= 0 or test < 0:
        raise InputError(f"--split {asked}: training and validation need at least one case each")
    if _are_counts(numbers):
        return int(train), int(validation), int(test)
    if sum(numbers) > 1 + 1e-9:
        raise InputError(f"--split {asked}: fractions must sum to at most 1, counts must be whole numbers")
    counted = [max(1, round(v * n)) if v else 0 for v in numbers]
    # rounding must neither ask for one case more than there is nor, where the fractions make a whole, leave one out
    rest = n - counted[1] - counted[2]
    counted[0] = max(1, rest if sum(numbers) > 1 - 1e-9 else min(counted[0], rest))
    return counted[0], counted[1], counted[2]


def _read(rule: str) -> Split:
    name, _, fold = rule.rpartition(":") if rule.rpartition(":")[2].isdigit() else (rule, "", "0")
    path = Path(name)
    if not _exists(path):
        raise InputError(
            f"--split {rule}: no such file, and not three numbers; give TRAIN,VALIDATION,TEST, a split.json or "
            "nnU-Net's splits_final.json"
        )
    return read_split(path, int(fold))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def read_split(path: Path, fold: int = 0) -> Split:
    """Return the split of a split.json, or a fold of nnU-Net's splits_final.json.

    Raises:
        InputError: the file is missing, damaged or of another kind.
    """
    try:
        document: Any = json.loads(read_small(path))
    except RecipeError as error:
        raise InputError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {error}") from error
    try:
        entry = document[fold] if isinstance(document, list) else document
        validation = entry["validation"] if "validation" in entry else entry["val"]
        parts = [[str(case) for case in part] for part in (entry["train"], validation, entry.get("test", []))]
        patients = {str(case): str(patient) for case, patient in entry.get("patients", {}).items()}
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no fold {fold} with the lists train and val (or validation)") from error
    return Split(train=tuple(parts[0]), validation=tuple(parts[1]), test=tuple(parts[2]), patients=patients)


def checked_split(split: Split, cases: Sequence[str], where: str | Path) -> Split:
    """Return a split that these cases allow.

    Raises:
        InputError: it names unknown cases, or one twice, none to train or to validate, or a patient in two parts.
    """
    if unknown := sorted(set(split.cases) - set(cases)):
        raise InputError(
            f"{where}: {plural(len(unknown), 'case')} of the split not in the stores: {', '.join(unknown[:5])}; "
            "compute them, or take them out of the split"
        )
    if twice := [case for case, count in Counter(split.cases).items() if count > 1]:
        raise InputError(f"{where}: {', '.join(twice[:5])} appears more than once; a case belongs to one part")
    if not split.train or not split.validation:
        raise InputError(f"{where}: training and validation need at least one case each")
    places: dict[str, tuple[str, str]] = {}
    for part in PARTS:
        for case in getattr(split, part):
            patient = split.patients.get(case, case)
            first_part, first = places.setdefault(patient, (part, case))
            if first_part != part:
                raise InputError(
                    f"{where}: patient {patient} has {first} in {first_part} and {case} in {part}; a patient belongs "
                    "to one part"
                )
    return split

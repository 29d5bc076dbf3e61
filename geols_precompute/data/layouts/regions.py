"""The labels of a dataset.json: plain classes, or nested regions (nnU-Net's region-based training) told apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the labels of a dataset.json say.

    Attributes:
        classes: label value to name; None if the regions leave open what the classes are.
        ignore: the label value to ignore, if any.
        regions: name to label values, of those with several.
        why_no_classes: the reason, in one line; empty if there are classes.
    """

    classes: Mapping[int, str] | None
    ignore: int | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    why_no_classes: str = ""

    @classmethod
    def of(cls, labels: Mapping[str, Any], where: Path) -> Labels:
        """Return the labels of nnU-Net's {name: value or list of values}, or of the MSD's {value: name}.

        Raises:
            TypeError, ValueError, AttributeError: they are not such a mapping.
        """
        if all(key.lstrip("-").isdigit() for key in labels):
            by_name: dict[str, Any] = {str(name): int(value) for value, name in labels.items()}
        else:
            by_name = dict(labels)
        members = {name: _values(name, value) for name, value in by_name.items()}
        ignore = members.pop("ignore", None)
        if ignore is not None and len(ignore) != 1:
            raise ValueError("the label 'ignore' must have one value")
        regions = {name: values for name, values in members.items() if len(values) > 1}
        plain = {values[0]: name for name, values in members.items() if len(values) == 1}
        if len(plain) + len(regions) < len(members):
            raise ValueError("two labels share one value")
        reason = _why_not_told_apart(members) if regions else ""
        if reason:
            reason = f"{where}: {reason}; name the classes with --classes or a recipe, where regions can be kept"
        return cls(
            classes=None if reason else _innermost_names(members) | plain,
            ignore=ignore[0] if ignore else None,
            regions={} if reason else regions,
            why_no_classes=reason,
        )


def _values(name: str, value: Any) -> tuple[int, ...]:
    """Return the label values of one entry, ascending; a list of one value is that value."""
    values = value if isinstance(value, list) else [value]
    if not values or any(int(v) != float(v) for v in values):
        raise ValueError(f"the value of label {name!r} is not a whole number, or a list of them")
    return tuple(sorted({int(v) for v in values}))


def _why_not_told_apart(members: Mapping[str, tuple[int, ...]]) -> str:
    """Return why regions do not determine exclusive classes: two values lie in the same regions; else empty."""
    values_of: dict[frozenset[str], list[int]] = {}
    for value in sorted({value for values in members.values() for value in values}):
        values_of.setdefault(_regions_of(value, members), []).append(value)
    for names, values in values_of.items():
        if len(values) > 1:
            listed = " and ".join(map(str, values))
            return (
                f"label values {listed} lie in the same regions ({', '.join(sorted(names))}), which name no class each"
            )
    return ""


def _regions_of(value: int, members: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    return frozenset(name for name, values in members.items() if value in values)


def _innermost_names(members: Mapping[str, tuple[int, ...]]) -> dict[int, str]:
    """Return a class name per value: the smallest region that it lies in, and the value."""
    names = {}
    for value in {value for values in members.values() for value in values}:
        innermost = min(_regions_of(value, members), key=lambda name: (len(members[name]), members[name], name))
        names[value] = f"{innermost} {value}"
    return names

"""The cases of a data folder: what a case is, which ids are allowed, how file names are read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STORE_FILES = ("zarr.json", "manifest.json")
#: Image files by their ending; the data halves of two-file formats (.img, .raw) are found through their headers.
_IMAGE_ENDING = re.compile(
    r"\.(nii(\.gz)?|hdr|mha|mhd|nrrd|nhdr|gipl(\.gz)?|mnc|mgh|mgz|vtk|tiff?|dcm)\Z", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One labelled volume as files.

    Attributes:
        id: its name in the stores.
        images: a file per modality in the dataset's order, or one file that holds all of them.
        label: the label file; None for data to predict. Of several raters it is the first until one is chosen,
            of masks their folder.
        raters: the label file of each rater by the rater's name, where there are several.
        masks: the binary mask of each organ by the organ's name, where these stand for one label map.
        plans: of a case that nnU-Net has preprocessed: the plans it has been preprocessed by. Its image files are the
            one with its intensities and the one with its properties. None for image files of other kinds.
    """

    id: str
    images: tuple[Path, ...]
    label: Path | None
    raters: Mapping[str, Path] = field(default_factory=dict)
    masks: Mapping[str, Path] = field(default_factory=dict)
    plans: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case, images first."""
        return (*self.images, *self.labels)

    @property
    def labels(self) -> tuple[Path, ...]:
        """Every label file: the one, or those of all raters, or all masks."""
        return (*self.raters.values(), *self.masks.values()) or ((self.label,) if self.label else ())


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A case that cannot be used, and why, in one line that names the file."""

    case_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a data folder holds.

    Attributes:
        layout: the name of the recognised layout.
        root: the folder.
        modalities: names, in the order of each case's images.
        renamed: what the data call these modalities, where they were taken by their order; else empty.
        cases: the usable cases, sorted by id.
        problems: the others.
        classes: label value to name, background included or not; None where the layout does not say.
        ignore: the label value to ignore, if any.
        regions: name to label values, where the layout has overlapping regions over its classes.
        why_no_classes: why `classes` is None although the layout should say; else empty.
        licence: the data set's terms, where it states them.
        citation: how it asks to be cited, where it says.
        notes: what a person should know about the data set.
    """

    layout: str
    root: Path
    modalities: tuple[str, ...]
    cases: tuple[Case, ...]
    problems: tuple[Problem, ...] = ()
    renamed: tuple[str, ...] = ()
    classes: Mapping[int, str] | None = None
    ignore: int | None = None
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    why_no_classes: str = ""
    licence: str | None = None
    citation: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(kw_only=True)
class CaseList:
    """Collects cases and problems while a layout is read, and checks the ids at the end."""

    cases: list[Case] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def add(
        self,
        case_id: str,
        images: Iterable[Path],
        label: Path | None,
        *,
        raters: Mapping[str, Path] | None = None,
        masks: Mapping[str, Path] | None = None,
        plans: Path | None = None,
    ) -> None:
        """Add a case, or a problem that names its first missing file."""
        images, raters, masks = tuple(images), raters or {}, masks or {}
        labels = (*raters.values(), *masks.values()) or ((label,) if label else ())
        files = (*images, *labels)
        if odd := [path for path in files if not _is_utf8(str(path))]:
            self.refuse(case_id, f"{odd[0]}: the path is not valid UTF-8; rename it")
            return
        missing = [path for path in files if not path.exists()]
        if missing:
            kind = "label" if missing[0] in labels else "image"
            self.refuse(case_id, f"{kind} {missing[0]} does not exist")
        else:
            first = next(iter(masks.values())).parent if masks else labels[0] if labels else None
            self.cases.append(Case(id=case_id, images=images, label=first, raters=raters, masks=masks, plans=plans))

    def refuse(self, case_id: str, reason: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(case_id=_escaped(case_id), reason=_escaped(reason)))

    def checked(self) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
        """Return (cases, problems) sorted by id; bad ids, and ids equal but for case, become problems."""
        same = Counter(case.id.lower() for case in self.cases)
        usable = []
        for case in sorted(self.cases, key=lambda c: c.id):
            where = case.label or case.images[0]
            if not is_case_id(case.id):
                self.refuse(
                    case.id,
                    f"{where}: case id {case.id!r} is not allowed; rename it to 1 to 100 letters, digits, '.', '_' "
                    "or '-', a letter or digit first",
                )
            elif same[case.id.lower()] > 1:
                self.refuse(case.id, f"{where}: another case has the id {case.id!r}, letter case aside; rename one")
            else:
                usable.append(case)
        return tuple(usable), tuple(sorted(self.problems, key=lambda p: p.case_id))


def is_case_id(name: str) -> bool:
    """Whether `name` may be a case id: 1 to 100 letters, digits, `.`, `_`, `-`, and no file name of a store."""
    return bool(_CASE_ID.fullmatch(name)) and name.lower() not in _STORE_FILES


def is_image(path: Path) -> bool:
    """Whether `path` looks like an image file that SimpleITK reads, by its name."""
    return not path.name.startswith(".") and bool(_IMAGE_ENDING.search(path.name)) and path.is_file()


def images_below(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the image files in a folder and up to `depth` levels below it, sorted; stores are left alone.

    A folder that holds the slices of a DICOM series is one image.
    """
    paths = sorted(folder.iterdir())
    if sum(path.suffix.lower() == ".dcm" for path in paths) > 1:
        # training reads stores only, and needs no SimpleITK
        from geols_precompute.data.formats.dicom import is_series

        if is_series(folder):
            yield folder
            return
    for path in paths:
        if is_image(path):
            yield path
        elif depth and path.is_dir() and not path.name.startswith(".") and path.suffix != ".zarr":
            yield from images_below(path, depth - 1)


def stem(path: Path) -> str:
    """Return the file name without its image ending: `a.nii.gz` gives `a`."""
    short = _IMAGE_ENDING.sub("", path.name)
    return path.stem if short == path.name else short


def ending(path: Path) -> str:
    """Return the ending of a file name: `.nii.gz` of an image; `files without ending` if it has none."""
    return path.name[len(stem(path)) :].lower() or "files without ending"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _escaped(text: str) -> str:
    """Return a text that can be written as UTF-8, whatever bytes a file name has."""
    return text.encode("utf-8", "backslashreplace").decode()

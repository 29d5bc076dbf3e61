"""Opens a store, checks what it reads, and returns whole cases or windows as arrays."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from geols_precompute import softlabel
from geols_precompute.arrays import Float32Array, Int16Array, UInt8Array, Window
from geols_precompute.digests import sha256_hex
from geols_precompute.errors import InputError, StoreError
from geols_precompute.recipe.parameters import TrainingHints
from geols_precompute.softlabel import Normalize
from geols_precompute.store import files, guards
from geols_precompute.store.archive import Archive
from geols_precompute.store.files import Files, Folder
from geols_precompute.store.layout import IMAGE, LABEL, MANIFEST, MAPS, METADATA, RATERS, Format

if TYPE_CHECKING:
    from geols_precompute.store.shard import Pread

#: Metadata that a store keeps, in bytes of JSON; parsed they take up to 25 times as much. Beyond, they are read again.
MAX_KEPT_BYTES = 32 * 2**20


class Store:
    """A committed store, opened for reading.

    Opening reads the manifest and the root only; a case's metadata is read and checked on its first use. A store
    keeps no file open, so it may be used after a fork and may be pickled.

    Attributes:
        files: where the store lies.
        manifest_content: the manifest as it stands.
        root_content: the root's zarr.json as it stands.
        digest: SHA-256 of the manifest, the name under which the store is cited.
        cases: ids, sorted.
        classes: the class table; a class's index is its place in it.
        preprocessing: what turned source files into prepared volumes.
        recipe: the recipe document; see docs/store-format.md.
    """

    format: ClassVar[Format]

    def __init__(self, where: Files) -> None:
        self.files = where
        self.manifest_content = files.read_limited(where, MANIFEST, files.MAX_MANIFEST_BYTES)
        self.manifest = guards.checked_manifest(self.manifest_content, self._named(MANIFEST), self.format)
        self.root_content = self._checked_content(METADATA, self.manifest.root_sha256)
        document = files.parse_json(self.root_content, self._named(METADATA))
        self.root = guards.checked_root(document, self._named(METADATA), self.format)
        for key in ("version", "recipe_id"):
            if getattr(self.root, key) != getattr(self.manifest, key):
                raise StoreError(
                    f"{where.location}: {key} of {MANIFEST} and {METADATA} differ; run geols-store finalize"
                )
        self.digest = self.manifest.digest
        self.cases = tuple(sorted(self.manifest.cases))
        self.classes = self.root.classes
        self.preprocessing = self.root.preprocessing
        self.recipe: Mapping[str, Any] = self.root.recipe
        self.geols: Mapping[str, Any] = self.root.geols
        self._metadata: dict[str, guards.CaseMetadata] = {}
        self._kept_bytes = 0
        self._hashed: dict[str, files.FileState] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a store: its folder, or the one file that it is packed in.

        Raises:
            StoreError: it is not there, not finalized, of another format, or its manifest or root is damaged.
        """
        return cls(local_files(Path(path)))

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[str]:
        return iter(self.cases)

    def __contains__(self, case: object) -> bool:
        return case in self.manifest.cases

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.files.location!r}, {len(self)} cases, classes {self.classes})"

    @property
    def path(self) -> Path:
        """Where the store lies on this machine."""
        return Path(self.files.location)

    def metadata(self, case: str) -> guards.CaseMetadata:
        """Return a case's checked metadata.

        Raises:
            InputError: no such case.
            StoreError: it is missing or damaged.
        """
        if (kept := self._metadata.get(case)) is not None:
            return kept
        content, metadata = self.read_metadata(case)
        self._kept_bytes += len(content)
        if self._kept_bytes <= MAX_KEPT_BYTES:
            self._metadata[case] = metadata
        return metadata

    def read_metadata(self, case: str) -> tuple[bytes, guards.CaseMetadata]:
        """Return a case's zarr.json as it stands and as `metadata` gives it, without keeping either.

        Raises:
            InputError: no such case.
            StoreError: it is missing or damaged.
        """
        if case not in self.manifest.cases:
            raise InputError(f"{self.files.location}: no case {case!r}; it has {len(self.cases)} cases")
        relative = f"{case}/{METADATA}"
        content = self._checked_content(relative, self.manifest.cases[case])
        document = files.parse_json(content, self._named(relative))
        return content, guards.checked_case(document, self._named(relative), self.root)

    def read(self, case: str, name: str, window: Window | None = None) -> NDArray[Any]:
        """Return the array of a case that has this name, or the window (z, y, x slices with start and stop) of it.

        A whole array is that of the store's digest: its file has the SHA-256 that the metadata say, and is hashed again
        only if it has changed since. Of a window only the checksums inside the file are compared, which show damage
        but not another file in its place.

        Raises:
            InputError: no such case, or the window is not inside the volume.
            StoreError: a file is missing, truncated or damaged; never zeros in its place.
        """
        from geols_precompute.store.shard import decode_window  # numcodecs takes long to import

        metadata, kind = self.metadata(case), self.root.arrays[name]
        shape = metadata.shapes[name]
        inside = _checked_window(window, shape[-3:])
        where = f"{case}/{kind.metadata_path}"
        declaration = files.read_limited(self.files, where, files.MAX_METADATA_BYTES)
        guards.require_array_metadata(declaration, kind, shape, self._named(where))
        relative = f"{case}/{kind.shard_path}"
        declared, sha256 = metadata.files[kind.shard_path]
        with self.files.open(relative) as file:
            if (found := file.size()) != declared:
                raise StoreError(
                    f"{self._named(relative)}: {found} bytes, {declared} expected; restore it, or run "
                    "geols-precompute again"
                )
            pread = _ranges_of(file)
            state = file.state()
            if window is None and (state is None or self._hashed.get(relative) != state):
                pieces = files.checked_stream(file, self._named(relative), declared, sha256)
                pread = _ranges_in(b"".join(pieces))
                if state is not None:
                    self._hashed[relative] = state
            return decode_window(pread, declared, kind, shape, inside, self._named(relative))

    def _checked_content(self, relative: str, sha256: str) -> bytes:
        content = files.read_limited(self.files, relative, files.MAX_METADATA_BYTES)
        if sha256_hex(content) != sha256:
            raise StoreError(
                f"{self._named(relative)}: differs from its digest in the manifest; restore it, or run "
                "geols-precompute again"
            )
        return content

    def _named(self, relative: str) -> str:
        return f"{self.files.location}/{relative}"


class LabelStore(Store):
    """A store of geodesic maps.

    Example:
        >>> store = LabelStore.open("labels.zarr")                     # doctest: +SKIP
        >>> for case in store:                                         # doctest: +SKIP
        ...     maps = store.maps(case)  # uint8 [channel,z,y,x], g = maps / 255
    """

    format = "geols-labels"

    @property
    def channels(self) -> tuple[int, ...]:
        """The class index of each stored channel: every foreground class, and the background if it is stored."""
        return self.root.channels

    def present(self, case: str) -> tuple[int, ...]:
        """Return the class indices that a case's whole volume has.

        Raises:
            InputError: no such case.
            StoreError: its metadata is missing or damaged.
        """
        return tuple(map(self.classes.index_of, self.metadata(case).geols["present"]))

    def maps(self, case: str, window: Window | None = None) -> UInt8Array:
        """Return the stored maps of a case, uint8 [channel,z,y,x], g = maps / 255; see `channels`.

        Args:
            case: id.
            window: z, y and x slices, each with start and stop; None is the whole volume.

        Raises:
            InputError: no such case, or the window is not inside the volume.
            StoreError: a file is missing, truncated or damaged; never zeros in its place.
        """
        return self.read(case, MAPS.name, window)

    def class_maps(self, case: str, window: Window | None = None) -> Float32Array:
        """Return g of every class, float32 [class,z,y,x] in [0, 1], background first.

        Raises:
            InputError, StoreError: as `maps` does.
        """
        return softlabel.class_maps(
            self.maps(case, window), channels=self.channels, present=self.present(case), n_classes=len(self.classes)
        )

    def soft_label(
        self,
        case: str,
        label: NDArray[np.integer],
        *,
        alpha: float = 0.1,
        normalize: Normalize = "sum",
        window: Window | None = None,
    ) -> Float32Array:
        """Return the GeoLS soft label of a case, float32 [class,z,y,x], background first (GeoLS eq. 6).

        Args:
            case: id.
            label: class indices [z,y,x] of the case, or of the window; 255 where ignored. `VolumeStore.label` has
                them, and `classes.indices` makes them of file values.
            alpha: share of the geodesic part, in [0, 1].
            normalize: sum divides the maps by their sum over classes (the paper), none does not (the published code).
            window: z, y and x slices; None is the whole volume.

        Raises:
            InputError: as `maps` does, α outside [0, 1], or a label of another shape.
            StoreError: as `maps` does.
        """
        return softlabel.soft_label(label, self.class_maps(case, window), alpha=alpha, normalize=normalize)


class VolumeStore(Store):
    """A store of prepared volumes; it holds images, so it is private."""

    format = "geols-volumes"

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names along an image's first axis."""
        return self.preprocessing.modalities

    @property
    def hints(self) -> TrainingHints:
        """Regions, crop and skull-stripping, as the recipe gave them."""
        return self.root.hints

    def image(self, case: str, window: Window | None = None) -> Int16Array:
        """Return a case's stored image, int16 [modality,z,y,x]; see `scale_offset`.

        Raises:
            InputError, StoreError: as `LabelStore.maps` does.
        """
        return self.read(case, IMAGE.name, window)

    def intensities(self, case: str, window: Window | None = None) -> Float32Array:
        """Return a case's intensities, float32 [modality,z,y,x], in the units of its files.

        Whole numbers whose range fits 16 bits are exact, others to 1/131070 of their range.

        Raises:
            InputError, StoreError: as `LabelStore.maps` does.
        """
        scale, offset = (values[:, None, None, None] for values in self.scale_offset(case))
        return (self.image(case, window) * scale + offset).astype(np.float32)

    def label(self, case: str, window: Window | None = None) -> UInt8Array:
        """Return a case's class indices, uint8 [z,y,x], 255 where ignored.

        Raises:
            InputError, StoreError: as `LabelStore.maps` does.
        """
        return self.read(case, LABEL.name, window)

    def raters(self, case: str, window: Window | None = None) -> dict[str, UInt8Array]:
        """Return the class indices of every rater of a case, {name: uint8 [z,y,x]}, 255 where ignored.

        Raises:
            InputError: no such case, or the store was made without `--keep-raters`.
            StoreError: as `LabelStore.maps` does.
        """
        if RATERS.name not in self.root.arrays:
            raise InputError(f"{self.files.location}: keeps no raters; make it with geols-precompute --keep-raters")
        names = [rater["name"] for rater in self.metadata(case).geols["source"]["raters"]]
        return dict(zip(names, self.read(case, RATERS.name, window), strict=True))

    def scale_offset(self, case: str) -> tuple[Float32Array, Float32Array]:
        """Return (scale, offset) per modality: intensity = stored · scale + offset."""
        stored = self.metadata(case).geols["image"]
        return np.asarray(stored["scale"], np.float32), np.asarray(stored["offset"], np.float32)


def local_files(path: Path) -> Files:
    """Return the files of a store that is a folder, or packed in one file.

    Raises:
        StoreError: there is neither.
    """
    try:
        # the store itself may be reached by a link; what is inside one may not
        mode = path.stat().st_mode
    except OSError as error:
        raise StoreError(f"{path}: no such store ({error.strerror})") from error
    if stat.S_ISREG(mode):
        real = path.resolve()
        return Archive(Folder(real.parent), real.name, str(path))
    if not stat.S_ISDIR(mode):
        raise StoreError(f"{path}: is neither a folder nor a file")
    if not (path / MANIFEST).exists():
        hint = "run geols-store finalize" if (path / METADATA).exists() else "is this a store?"
        raise StoreError(f"{path}: has no {MANIFEST}; {hint}")
    return Folder(path)


def _ranges_of(file: files.Readable) -> Pread:
    return lambda offset, length: files.read_range(file, offset, offset + length)


def _ranges_in(content: bytes) -> Pread:
    return lambda offset, length: content[offset : offset + length]


def _checked_window(window: Window | None, shape: tuple[int, ...]) -> Window:
    if window is None:
        z, y, x = (slice(0, n) for n in shape)
        return z, y, x
    if len(window) != 3 or not all(
        s.step in (None, 1) and s.start is not None and s.stop is not None and 0 <= s.start < s.stop <= n
        for s, n in zip(window, shape, strict=True)
    ):
        raise InputError(f"window {window} is not three slices with start < stop inside a volume of shape {shape}")
    return window

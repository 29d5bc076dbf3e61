"""Predict: from source images to label maps on their own grid, with nothing but a run's best.pt."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from geols_precompute.arrays import Float32Array
from geols_precompute.atomic import readers_of, refuse_foreign
from geols_precompute.data.cases import Case, Problem
from geols_precompute.data.formats.detached import source_files
from geols_precompute.data.formats.nifti import is_written_here, write_image
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.layouts.unlabelled import find_images
from geols_precompute.data.orientation import orientation_of, turn_back, turned
from geols_precompute.data.prepare import notes_of_range, prepare, prepared_size, to_int16
from geols_precompute.data.volumes import Volume, read_volume
from geols_precompute.errors import InputError, OutputError
from geols_precompute.formatting import readable
from geols_precompute.memory import free_memory
from geols_train.checkpoint import NetworkSpec, load_network
from geols_train.config import Precision
from geols_train.data import ZScore
from geols_train.device import OutOfMemoryError, avoid_amx, choose_device, explain_out_of_memory, set_arithmetic
from geols_train.evaluate import predict_probabilities
from geols_train.folder import BEST
from geols_train.unet import UNet3D

#: An image of no more values, all whole numbers, looks like a label map.
MOST_LABELS = 16


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A trained network, ready for source images.

    Example:
        predictor = Predictor.of_run(Path("runs/labels-geols-0.1"))
        cases, problems = predictor.find(Path("images"))
        predictor.predict(cases[0], Path("predictions"))
    """

    network: UNet3D
    spec: NetworkSpec
    precision: Precision = "auto"

    @classmethod
    def of_run(cls, run: Path, *, device: str = "auto", precision: Precision = "auto") -> Self:
        """Load the best network of a run folder.

        Raises:
            InputError: the folder holds several repeats, or there is no such device.
            StoreError: it holds no whole checkpoint.
        """
        if not (run / BEST).exists() and (repeats := sorted(run.glob(f"repeat-*/{BEST}"))):
            raise InputError(f"{run} holds {len(repeats)} repeats; name one of them, for example {repeats[0].parent}")
        chosen = choose_device(device)
        avoid_amx(chosen, precision)
        set_arithmetic(chosen, precision)
        spec, network = load_network(run / BEST, chosen)
        return cls(network=network, spec=spec, precision=precision)

    def find(
        self, images: Path, out: Path | None = None, *, on_note: Callable[[str], object] | None = None
    ) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
        """Return the cases that `images` holds and those that cannot be used; see `find_images`.

        What lies in `out`, the folder of predictions, is no input. `on_note` is told where modalities are taken by
        their order and not by their names.
        """
        return find_images(images, self.spec.preprocessing.modalities, leave_out=out, on_note=on_note)

    def predict(
        self, case: Case, out: Path, *, probabilities: bool = False, on_note: Callable[[str], object] | None = None
    ) -> Path:
        """Write OUT/<case>.nii.gz with the classes' file values, and <case>_probabilities.nii.gz if asked.

        They lie on the image in space; the header of a NIfTI image gives them its sform and qform, with their codes.
        `on_note` is told what a person should know of the image.

        Raises:
            InputError: a file cannot be read, or does not fit the others.
            OutputError: the output cannot be written, or would replace the image.
        """
        require_new_files([case], out, probabilities=probabilities)
        path, *more = prediction_paths(case, out, probabilities=probabilities)
        with explain_out_of_memory(
            "the size of the image, or of its grid after resampling; or take --device cpu, or a machine that has more"
        ):
            volume = read_volume(case.images, None, modalities=len(self.spec.preprocessing.modalities))
            if on_note is not None:
                for note in (*volume.notes, *filter(None, [label_map_note(volume.image)])):
                    on_note(note)
            probabilities_CZYX = self.probabilities(volume, on_note=on_note)
        readers = readers_of(source_files(case), out)
        write_image(label_map(probabilities_CZYX, self.spec), volume.geometry, path, readers=readers)
        for second in more:
            write_image(probabilities_CZYX, volume.geometry, second, readers=readers)
        return path

    def probabilities(self, volume: Volume, *, on_note: Callable[[str], object] | None = None) -> Float32Array:
        """Return class probabilities [c,z,y,x] on the volume's own grid; `on_note` is told if 16 bits lose its range.

        Raises:
            InputError: the volume cannot be prepared.
            OutOfMemoryError: they do not fit the memory of this machine.
        """
        self.require_memory(volume.geometry)
        prepared = prepare(volume, self.spec.preprocessing)
        if on_note is not None:
            for note in notes_of_range(prepared.image, self.spec.preprocessing.modalities):
                on_note(note)
        image = torch.from_numpy(network_input(prepared.image, self.spec))
        probabilities = predict_probabilities(
            self.network, image, window=self.spec.window, overlap=self.spec.overlap, precision=self.precision
        )
        orientation = self.spec.preprocessing.orientation or orientation_of(volume.geometry)
        turned_CZYX = resample_probabilities(
            probabilities.cpu().numpy(), prepared.geometry, turned(volume.geometry, orientation)
        )
        return turn_back(turned_CZYX, volume.geometry, orientation)

    def require_memory(self, source: Geometry) -> None:
        """Refuse a volume whose float32 arrays alone are larger than the memory that is left: a system would kill us.

        Raises:
            OutOfMemoryError: naming the two sizes.
        """
        preprocessing = self.spec.preprocessing
        prepared = math.prod(prepared_size(source, preprocessing))
        channels, classes = len(preprocessing.modalities), len(self.spec.classes)
        needed, free = 4.0 * (prepared * (channels + classes) + math.prod(source.size) * classes), free_memory()
        if free is not None and needed > free:
            raise OutOfMemoryError(
                f"out of memory: the image on its own grid of {_times(source.size)} voxels and on the network's needs "
                f"at least {readable(needed)}, of {readable(free)} that are free; crop it, correct its spacing "
                f"{_times(source.spacing)} mm if it is wrong, or use a machine that has more"
            )


def label_map_note(image_MZYX: Float32Array) -> str:
    """Return what to say of an image that looks like a label map: it holds few values, all of them whole numbers."""
    values: NDArray[Any] = np.empty(0)
    for plane in image_MZYX.reshape(-1, *image_MZYX.shape[-2:]):  # most images have many values in one plane
        values = np.union1d(values, plane)
        if len(values) > MOST_LABELS or not np.array_equal(values, np.rint(values)):
            return ""
    return f"is this a label map? Its only values are {', '.join(f'{v:g}' for v in values[:MOST_LABELS])}"


def _times(numbers: Sequence[float]) -> str:
    return " × ".join(f"{number:g}" for number in numbers)


def prediction_paths(case: Case, out: Path, *, probabilities: bool) -> list[Path]:
    """Return the files that a prediction writes."""
    endings = [".nii.gz", *(["_probabilities.nii.gz"] if probabilities else [])]
    return [out / f"{case.id}{ending}" for ending in endings]


def require_new_files(cases: Sequence[Case], out: Path, *, probabilities: bool) -> None:
    """Refuse predictions that would replace an image, another file that is no prediction, or each other.

    Raises:
        OutputError: naming the first of them.
    """
    images = {(found.st_dev, found.st_ino): path for case in cases for path in case.images if (found := _status(path))}
    written: set[Path] = set()
    for path in (path for case in cases for path in prediction_paths(case, out, probabilities=probabilities)):
        if (found := _status(path)) and (image := images.get((found.st_dev, found.st_ino))):
            raise OutputError(f"{path}: the prediction would replace the image {image}; name another folder with -o")
        # a folder cannot be replaced: it costs its case alone
        if not path.is_dir():
            refuse_foreign(path, is_written_here)
        if path in written:
            raise OutputError(f"{path}: two cases would be written there; rename one, or predict them one by one")
        written.add(path)
    places = {place for case in cases for image in case.images if (place := _status(image.parent))}
    if (found := _status(out)) and any(os.path.samestat(found, place) for place in places):
        raise OutputError(
            f"-o {out} is the folder of the images, where predictions would be taken for images next time"
        )


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def network_input(image_MZYX: Float32Array, spec: NetworkSpec) -> Float32Array:
    """Return z-scores [modality,z,y,x] of a prepared image, by way of int16 as the store holds it in training."""
    stored, scale, offset = to_int16(image_MZYX)
    return ZScore.measure(stored, scale, offset, skull_stripped=spec.skull_stripped).apply(stored)


def label_map(probabilities_CZYX: Float32Array, spec: NetworkSpec) -> NDArray[Any]:
    """Return the most probable class of each voxel as its file value [z,y,x], in the smallest type that holds all."""
    values = np.array(spec.classes.values)
    dtype = next(t for t in (np.uint8, np.int16, np.int32) if values.max() <= np.iinfo(t).max)
    return values.astype(dtype)[probabilities_CZYX.argmax(axis=0)]


def resample_probabilities(probabilities_CZYX: Float32Array, prepared: Geometry, source: Geometry) -> Float32Array:
    """Return probabilities [c,z,y,x] on the source grid, linearly interpolated; the two grids share their origin."""
    if prepared.size == source.size and prepared.spacing == source.spacing:
        return probabilities_CZYX
    resampler = sitk.ResampleImageFilter()
    resampler.SetInterpolator(sitk.sitkLinear)
    resampler.SetSize(source.size)
    resampler.SetOutputSpacing(source.spacing)
    # the source may reach up to half a voxel beyond the prepared grid
    resampler.SetUseNearestNeighborExtrapolator(True)
    resampled = np.empty((len(probabilities_CZYX), *source.shape_zyx), np.float32)
    for class_ZYX, target in zip(probabilities_CZYX, resampled, strict=True):
        image = sitk.GetImageFromArray(class_ZYX)
        image.SetSpacing(prepared.spacing)
        target[:] = sitk.GetArrayViewFromImage(resampler.Execute(image))
    return resampled

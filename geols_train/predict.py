"""Predict: from source images to label maps on their own grid, with nothing but a run's best.pt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from geols_precompute.arrays import Float32Array
from geols_precompute.data.cases import Case, Problem
from geols_precompute.data.geometry import Geometry
from geols_precompute.data.layouts.unlabelled import find_images
from geols_precompute.data.nifti import write_image
from geols_precompute.data.prepare import prepare, to_int16
from geols_precompute.data.volumes import Volume, read_volume
from geols_precompute.errors import InputError
from geols_train.checkpoint import NetworkSpec, load_network
from geols_train.config import Precision
from geols_train.data import ZScore
from geols_train.device import choose_device, explain_out_of_memory
from geols_train.evaluate import predict_probabilities
from geols_train.training import BEST
from geols_train.unet import UNet3D


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
        spec, network = load_network(run / BEST, choose_device(device))
        return cls(network=network, spec=spec, precision=precision)

    def find(self, images: Path, out: Path | None = None) -> tuple[tuple[Case, ...], tuple[Problem, ...]]:
        """Return the cases that `images` holds and those that cannot be used; see `find_images`.

        What lies in `out`, the folder of predictions, is no input.
        """
        return find_images(images, self.spec.preprocessing.modalities, leave_out=out)

    def predict(self, case: Case, out: Path, *, probabilities: bool = False) -> Path:
        """Write OUT/<case>.nii.gz with the classes' file values, and <case>_probabilities.nii.gz if asked.

        Raises:
            InputError: a file cannot be read, or does not fit the others.
            OutputError: the output cannot be written.
        """
        volume = read_volume(case.images, None, modalities=len(self.spec.preprocessing.modalities))
        probabilities_CZYX = self.probabilities(volume)
        path = out / f"{case.id}.nii.gz"
        write_image(label_map(probabilities_CZYX, self.spec), volume.geometry, path)
        if probabilities:
            write_image(probabilities_CZYX, volume.geometry, out / f"{case.id}_probabilities.nii.gz")
        return path

    def probabilities(self, volume: Volume) -> Float32Array:
        """Return class probabilities [c,z,y,x] on the volume's own grid."""
        prepared = prepare(volume, self.spec.preprocessing)
        image = torch.from_numpy(network_input(prepared.image, self.spec))
        with explain_out_of_memory("the size of the image, or take --device cpu"):
            probabilities = predict_probabilities(
                self.network, image, window=self.spec.window, overlap=self.spec.overlap, precision=self.precision
            )
        return resample_probabilities(probabilities.cpu().numpy(), prepared.geometry, volume.geometry)


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

"""The published recipe, transcribed on its own: scikit-image, GeodisTK and NumPy, nothing of GeoLS."""

from __future__ import annotations

import GeodisTK
import numpy as np
from skimage.morphology import skeletonize


def published_maps(image_MZYX, label_ZYX, spacing, n_classes):
    """Return float maps [foreground class,z,y,x] as the authors' script computes them, absent classes zero."""
    maps = np.zeros((n_classes - 1, *label_ZYX.shape), np.float32)
    for index in range(1, n_classes):
        skeleton = skeletonize(label_ZYX == index).astype(np.uint8)
        if not skeleton.any():
            continue
        for modality in image_MZYX:
            distance = GeodisTK.geodesic3d_raster_scan(
                np.ascontiguousarray(modality, np.float32), skeleton, list(map(float, spacing)), 1.0, 4
            )
            g = np.exp(-distance / distance.mean())
            maps[index - 1] += (g - g.min()) / (g.max() - g.min())
    return maps / len(image_MZYX)

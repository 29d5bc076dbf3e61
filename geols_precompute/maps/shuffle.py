"""A control: an image that has the intensities of another one, but none of its places."""

from __future__ import annotations

import hashlib

import numpy as np

from geols_precompute.arrays import Float32Array


def shuffled(image_MZYX: Float32Array, key: str) -> Float32Array:
    """Return the image with its voxels in another order, that of all modalities alike; equal keys give equal orders.

    What maps of it lose against those of the image is what the image told them. The order is that of raw PCG64 numbers:
    NumPy promises the bit stream of a generator, not what `permutation` makes of it.
    """
    flat = image_MZYX.reshape(len(image_MZYX), -1)
    seed = int.from_bytes(hashlib.sha256(f"shuffled/{key}".encode()).digest(), "big")
    order = np.argsort(np.random.PCG64(seed).random_raw(flat.shape[1]), kind="stable")
    return flat[:, order].reshape(image_MZYX.shape)

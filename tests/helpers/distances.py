"""Random volumes for the distance transform."""

from __future__ import annotations

import hashlib

import numpy as np

from geols_precompute.geodesic import geodesic_distance

SPACING = (2.5, 2.0, 1.5)


SHAPES_ZYX = """
    1x1x1 1x1x2 2x1x1 1x2x1 2x2x2 1x1x40 1x40x1 40x1x1 2x3x17 17x3x2 3x17x2 1x5x31 5x1x33 7x32x1 4x4x16
    3x3x15 8x8x8 9x9x9 7x7x7 9x16x17 16x17x9 10x5x63 6x11x64 5x6x65 19x23x29
"""


SHAPES = [tuple(map(int, shape.split("x"))) for shape in SHAPES_ZYX.split()]


def random_case(shape, *, seed=0, channels=None, classes=2, density=0.02):
    generator = np.random.default_rng(seed)
    image = generator.normal(0, 100, shape if channels is None else (channels, *shape)).astype(np.float32)
    seeds = generator.random((classes, *shape)) < density
    for mask in seeds:
        mask[tuple(generator.integers(0, shape))] = True
    return image, seeds


def some_maps():
    for metric in ("gradient", "riemannian"):
        for iterations in (4, "exact"):
            for seed, shape in enumerate([(12, 19, 43), (17, 9, 21)]):
                image, seeds = random_case(shape, seed=seed)
                yield geodesic_distance(image, seeds, SPACING, metric=metric, iterations=iterations)


def digest():
    return hashlib.sha256(b"".join(maps.tobytes() for maps in some_maps())).hexdigest()

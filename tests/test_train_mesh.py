"""The surface inside eight neighbouring voxels, against the tables of surface-distance."""

from __future__ import annotations

import numpy as np
import pytest
from surface_distance import lookup_tables

from geols_train.mesh import CORNERS, patterns, surface_areas


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.5, 1.0, 0.8), (0.7, 5.0, 1.1)])
def test_areas_of_all_patterns(spacing):
    kernel = np.array(lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL)
    theirs = np.array(lookup_tables.create_table_neighbour_code_to_surface_area(spacing))
    codes = [sum(int(kernel[c]) for bit, c in enumerate(CORNERS) if pattern >> bit & 1) for pattern in range(256)]
    np.testing.assert_allclose(surface_areas(spacing), theirs[codes], atol=1e-12)


def test_by_hand():
    areas = surface_areas((1.0, 2.0, 3.0))
    assert areas[0] == areas[255] == 0
    flat = sum(1 << bit for bit, (z, _, _) in enumerate(CORNERS) if z == 0)
    assert areas[flat] == pytest.approx(6.0)  # a sheet of 2 mm × 3 mm
    unit = surface_areas((1.0, 1.0, 1.0))
    assert unit[1] == pytest.approx(np.sqrt(3) / 8)  # one corner cut off
    np.testing.assert_allclose(unit, unit[::-1])  # inside and outside have one surface


def test_patterns_cover_the_border_of_the_grid():
    found = patterns(np.ones((1, 1, 1), bool))
    assert found.shape == (2, 2, 2)
    assert sorted(found.flatten().tolist()) == [1 << bit for bit in range(8)]

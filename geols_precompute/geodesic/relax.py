"""The step that every engine repeats: sixteen voxels look at the thirteen neighbours of one pass.

Where a voxel and its neighbours lie in memory is the caller's business; this is the arithmetic, written once for all
metrics, engines and directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geols_precompute.geodesic.jit import jit
from geols_precompute.geodesic.metric import step_cost
from geols_precompute.geodesic.simd import broadcast, lesser, load, smaller_lanes, store

UNREACHED = np.float32(np.inf)


@jit
def relax(image: Any, distances: Any, formula: Any, steps: Any, here: int, column: int, row: int, plane: int) -> int:
    """Lower the distances of the sixteen voxels at address `here`; return the lanes of any class that changed.

    `distances` is [class,address], or [address] for one class. `column`, `row` and `plane` are what x, y and z add to
    an address; the backward pass gives them negative. A step's cost is computed once and serves all classes.

    Names are those of the forward pass, in the order z, y: m is one back, o is level, p is one ahead.
    """
    step_x, step_y, step_z = broadcast(steps.x), broadcast(steps.y), broadcast(steps.z)
    step_xy, step_xz, step_yz = broadcast(steps.xy), broadcast(steps.xz), broadcast(steps.yz)
    step_xyz = broadcast(steps.xyz)
    mm, mo, om, pm, po = here - plane - row, here - plane, here - row, here + plane - row, here + plane
    cost_mm_left = step_cost(formula, image, here, mm - column, step_xyz)
    cost_mm = step_cost(formula, image, here, mm, step_yz)
    cost_mm_right = step_cost(formula, image, here, mm + column, step_xyz)
    cost_mo_left = step_cost(formula, image, here, mo - column, step_xz)
    cost_mo = step_cost(formula, image, here, mo, step_z)
    cost_om_left = step_cost(formula, image, here, om - column, step_xy)
    cost_om = step_cost(formula, image, here, om, step_y)
    cost_om_right = step_cost(formula, image, here, om + column, step_xy)
    cost_left = step_cost(formula, image, here, here - column, step_x)
    cost_pm_left = step_cost(formula, image, here, pm - column, step_xyz)
    cost_pm = step_cost(formula, image, here, pm, step_yz)
    cost_pm_right = step_cost(formula, image, here, pm + column, step_xyz)
    cost_po_left = step_cost(formula, image, here, po - column, step_xz)
    # decided when compiling: without a loop over classes the costs never leave the registers, a quarter faster
    if distances.ndim == 1:
        classes, size = 1, 0
    else:
        classes, size = distances.shape
    changed = 0
    for label in range(classes):
        at = label * size
        old = load(distances, at + here)
        # two chains of comparisons, so that one need not wait for the other
        odd = lesser(load(distances, at + mm - column) + cost_mm_left, old)
        even = lesser(load(distances, at + mm) + cost_mm, old)
        odd = lesser(load(distances, at + mm + column) + cost_mm_right, odd)
        even = lesser(load(distances, at + mo - column) + cost_mo_left, even)
        odd = lesser(load(distances, at + mo) + cost_mo, odd)
        even = lesser(load(distances, at + om - column) + cost_om_left, even)
        odd = lesser(load(distances, at + om) + cost_om, odd)
        even = lesser(load(distances, at + om + column) + cost_om_right, even)
        odd = lesser(load(distances, at + pm - column) + cost_pm_left, odd)
        even = lesser(load(distances, at + pm) + cost_pm, even)
        odd = lesser(load(distances, at + pm + column) + cost_pm_right, odd)
        even = lesser(load(distances, at + po - column) + cost_po_left, even)
        odd = lesser(load(distances, at + here - column) + cost_left, odd)
        best = lesser(even, odd)
        changed |= smaller_lanes(best, old)
        store(distances, at + here, best)
    return changed

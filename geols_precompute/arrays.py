"""Array types, written once. Axes are named by a suffix: maps_CZYX is [class,z,y,x]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BoolArray = NDArray[np.bool_]
UInt8Array = NDArray[np.uint8]
Int16Array = NDArray[np.int16]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
#: z, y and x slices, each with a start and a stop inside the volume.
Window = tuple[slice, slice, slice]

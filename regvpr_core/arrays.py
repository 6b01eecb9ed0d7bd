"""Names of the NumPy arrays that the packages pass to each other."""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int64]
"""Keyframe ids: rows of a map."""

Mask = npt.NDArray[np.bool_]

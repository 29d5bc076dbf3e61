"""Batches: windows as the stores hold them, stacked, moved to a device in few bytes, and normalised there.

Shapes: B cases, M modalities, then z,y,x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from geols_precompute.data.prepare import IGNORE_INDEX
from geols_train.intensity import ZScore


@dataclass(frozen=True, kw_only=True)
class StoredWindow:
    """One window of one case as the stores hold it; arrays of NumPy, or tensors of a case that lies on a device.

    Attributes:
        case: id.
        image: stored intensities [modality,z,y,x] int16, 0 in the padding.
        label: class indices [z,y,x] uint8, 255 where ignored and in the padding.
        maps: [channel,z,y,x] uint8, 0 in the padding; None if the method needs none.
        present: [class] bool, whether the whole volume has the class.
        inside: [axis,(start,stop)] of z, y and x: where in the window the volume lies.
        zscore: that makes z-scores of the image.
    """

    case: str
    image: Any
    label: Any
    maps: Any
    present: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.int64]
    zscore: ZScore


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows on the network's device as tensors [batch,...]: image float32, label and maps uint8, counted bool."""

    cases: tuple[str, ...]
    image: torch.Tensor
    label: torch.Tensor
    counted: torch.Tensor
    maps: torch.Tensor | None
    present: torch.Tensor

    def spatial(self) -> list[torch.Tensor]:
        """Return the tensors with the axes z,y,x: image, label, counted and, if there are any, maps."""
        return [t for t in (self.image, self.label, self.counted, self.maps) if t is not None]

    def with_spatial(self, tensors: Sequence[torch.Tensor]) -> Self:
        """Return the batch with these tensors, in the order of `spatial`."""
        maps = tensors[3] if self.maps is not None else None
        return replace(self, image=tensors[0], label=tensors[1], counted=tensors[2], maps=maps)


@dataclass(frozen=True, kw_only=True)
class StoredBatch:
    """Stored windows as tensors [batch,...], which travel to the device in the few bytes of the store.

    Beside those of `StoredWindow`: mean and std [batch,modality] float32 of the z-scores, and empty [batch,modality]
    int32, the stored number of intensity 0 outside a stripped skull (None if no skull is stripped).
    """

    cases: tuple[str, ...]
    image: torch.Tensor
    label: torch.Tensor
    maps: torch.Tensor | None
    present: torch.Tensor
    inside: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    empty: torch.Tensor | None

    def to(self, device: torch.device) -> Self:
        """Return the batch on a device; a copy from pinned memory goes on while the device works."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """Return the batch in pinned memory; the DataLoader calls this."""
        return self._each(torch.Tensor.pin_memory)

    def tensors(self) -> list[torch.Tensor]:
        """Return every tensor of the batch."""
        values = (getattr(self, f.name) for f in fields(self) if f.name != "cases")
        return [tensor for tensor in values if tensor is not None]

    def normalised(self, vary: Callable[[torch.Tensor], torch.Tensor] | None = None) -> Batch:
        """Return the batch with z-scores, which `vary` may change; padding and outside a stripped skull they are 0."""
        image_BMZYX = (self.image.float() - _spread(self.mean)).div_(_spread(self.std))
        if vary is not None:
            image_BMZYX = vary(image_BMZYX)
        if self.empty is not None:
            image_BMZYX.masked_fill_(self.image == _spread(self.empty), 0)
        image_BMZYX.masked_fill_(~self.inside_BZYX()[:, None], 0)
        return Batch(
            cases=self.cases, image=image_BMZYX, label=self.label, counted=self.label != IGNORE_INDEX, maps=self.maps,
            present=self.present,
        )  # fmt: skip

    def inside_BZYX(self) -> torch.Tensor:
        """Which voxels of the windows are voxels of the volumes."""
        along = []
        for axis, size in enumerate(self.label.shape[1:]):
            place = torch.arange(size, device=self.label.device)
            start, stop = self.inside[:, axis, 0, None], self.inside[:, axis, 1, None]
            along.append((place >= start) & (place < stop))
        z, y, x = along
        return z[:, :, None, None] & y[:, None, :, None] & x[:, None, None, :]

    def _each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "cases"}
        changed: dict[str, Any] = {name: t if t is None else function(t) for name, t in tensors.items()}
        return replace(self, **changed)


def collate(windows: Sequence[StoredWindow]) -> StoredBatch:
    """Stack windows of one size to a batch, where their voxels are."""

    def stack(arrays: Sequence[Any]) -> torch.Tensor:
        return torch.stack([torch.as_tensor(array) for array in arrays])

    first, scores = windows[0], [window.zscore for window in windows]
    device = first.image.device if isinstance(first.image, torch.Tensor) else None
    empty = None
    if any(place is not None for place in first.zscore.empty):
        empty = torch.tensor([score.empty for score in scores], dtype=torch.int32, device=device)
    return StoredBatch(
        cases=tuple(window.case for window in windows),
        image=stack([window.image for window in windows]),
        label=stack([window.label for window in windows]),
        maps=None if first.maps is None else stack([window.maps for window in windows]),
        present=stack([window.present for window in windows]).to(device),
        inside=stack([window.inside for window in windows]).to(device),
        mean=torch.tensor([score.mean for score in scores], dtype=torch.float32, device=device),
        std=torch.tensor([score.std for score in scores], dtype=torch.float32, device=device),
        empty=empty,
    )


def _spread(tensor_BM: torch.Tensor) -> torch.Tensor:
    """Give [batch,modality] the axes z,y,x."""
    return tensor_BM[:, :, None, None, None]

"""Soft labels in MONAI: maps beside an image, soft labels after its transforms, and MONAI's loss set right for them.

Maps travel through spatial transforms as an image does, and are mixed with the label last, so that no interpolation
harms the sum of a soft label. Axes: K stored channels, C classes, then X,Y,Z as MONAI has them; stores have Z,Y,X.
"""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geols_precompute.arrays import Float64Array, UInt8Array
from geols_precompute.data.cases import stem
from geols_precompute.data.formats.transforms import farthest
from geols_precompute.data.geometry import RAS_TO_LPS, Geometry
from geols_precompute.errors import InputError, MissingExtraError
from geols_precompute.softlabel import Normalize
from geols_precompute.store.reader import LabelStore
from geols_train.data import LabelMaps
from geols_train.targets import Mix

try:
    from monai.data import MetaTensor
    from monai.losses import DiceCELoss
    from monai.transforms import MapTransform, ResampleToMatch
except ImportError as error:
    raise MissingExtraError("monai", "monai") from error

#: Part of a voxel by which two grids may lie apart and still be one: headers are rounded to float32.
SAME_WITHIN = 1e-2
#: What follows the case id in the names of image files: nnU-Net's channel, FLARE's image.
_ENDING = re.compile(r"_(\d{4}|img)\Z")


class LoadGeoLSd(MapTransform):  # type: ignore[misc]
    """Put a case's maps beside its image, before any spatial transform.

    It adds `maps`, uint8 [k,x,y,z], g = maps / 255, on the image's grid and with its affine, and `present`, bool [c],
    whether the whole volume has the class. Give `maps` to all spatial transforms, interpolated linearly as the image,
    and to no other transform. A store whose recipe resamples or turns volumes (`spacing`, `orientation`) has its own
    grid: its maps are resampled to the image's.

    Args:
        keys: the image, as LoadImaged and EnsureChannelFirstd give it.
        store: of maps, or its path.
        case_key: where the case id is; without it, the id is read off the name of the image's file.
        maps_key: for the maps.
        present_key: for the presence.

    Raises:
        StoreError: the store or a case of it is missing or damaged.
        InputError: more than one key, the store has no such case, or the image does not lie where the maps lie.

    Example:
        >>> from monai import transforms
        >>> from geols_train.monai import LoadGeoLSd, MixSoftLabeld
        >>> steps = transforms.Compose([
        ...     transforms.LoadImaged(("image", "label"), ensure_channel_first=True),
        ...     LoadGeoLSd("image", "labels.zarr"),
        ...     transforms.RandFlipd(("image", "label", "maps"), prob=0.5, spatial_axis=0),
        ...     MixSoftLabeld("label", "labels.zarr", alpha=0.1),
        ... ])
    """

    def __init__(
        self,
        keys: Hashable,
        store: LabelStore | str | os.PathLike[str],
        *,
        case_key: Hashable = "case",
        maps_key: Hashable = "maps",
        present_key: Hashable = "present",
    ) -> None:
        super().__init__(keys)
        self.image_key = _only(self.keys)
        self.maps = LabelMaps(_opened(store))
        self.case_key, self.maps_key, self.present_key = case_key, maps_key, present_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with maps and presence."""
        store, image = self.maps.store, data[self.image_key]
        if not isinstance(image, MetaTensor) or image.ndim != 4:
            raise InputError(
                f"LoadGeoLSd needs {self.image_key!r} as [channel,x,y,z] with its affine; put it after LoadImaged with "
                "ensure_channel_first=True"
            )
        case = data[self.case_key] if self.case_key in data else self._case_of(image)
        item = self.maps.read(case)
        geometry = store.metadata(case).geometry
        maps_KXYZ, affine = to_monai(item["maps"].numpy(), geometry)
        if _is_same_grid(image, geometry, affine):
            maps = torch.from_numpy(maps_KXYZ)
        else:
            _require_same_place(image, geometry, affine, store, case)
            moving = MetaTensor(torch.from_numpy(maps_KXYZ).float(), affine=torch.from_numpy(affine))
            resampled = ResampleToMatch(mode="bilinear", padding_mode="border")(moving, image).as_tensor()
            maps = resampled.round().to(torch.uint8)
        name = f"{store.path}/{case}/maps"
        # the image's own affine, to the bit: transforms that resample then do exactly the same to both
        on_image = MetaTensor(maps, affine=image.affine.clone(), meta={**image.meta, "filename_or_obj": name})
        return {**data, self.maps_key: on_image, self.present_key: item["present"]}

    def _case_of(self, image: Any) -> str:
        """Return the case that the image's file is named after."""
        file = image.meta.get("filename_or_obj", "")
        name = stem(Path(str(file if isinstance(file, str | os.PathLike) else file[0])))
        for case in (name, _ENDING.sub("", name)):
            if case in self.maps.store:
                return case
        raise InputError(
            f"{self.maps.store.path} has no case that the image {str(file)!r} is named after; give the case's id under "
            f"{self.case_key!r}"
        )


class MixSoftLabeld(MapTransform):  # type: ignore[misc]
    """Mix label and maps to the soft label `soft`, float32 [c,x,y,z], after all spatial transforms.

    It sums to 1 over the classes (with `normalize="sum"`); voxels of the ignore label are zero. Batches of it,
    [b,c,x,y,z], are what `soft_dice_ce_loss` takes. Label and maps stay as they are.

    Args:
        keys: the label, [1,x,y,z] of file values, moved by nearest neighbour only.
        store: of maps, or its path.
        alpha: share of the geodesic part, in [0, 1].
        normalize: sum divides the maps by their sum over classes (the paper), none does not (the published code).
        maps_key: the maps of `LoadGeoLSd`.
        present_key: the presence of `LoadGeoLSd`.
        soft_key: for the soft label.

    Raises:
        StoreError: the store is missing or damaged.
        InputError: more than one key, α outside [0, 1], maps that lie elsewhere than the label, or a label that is not
            of the store's classes, for instance because it was interpolated.
    """

    def __init__(
        self,
        keys: Hashable,
        store: LabelStore | str | os.PathLike[str],
        *,
        alpha: float = 0.1,
        normalize: Normalize = "sum",
        maps_key: Hashable = "maps",
        present_key: Hashable = "present",
        soft_key: Hashable = "soft",
    ) -> None:
        super().__init__(keys)
        self.label_key = _only(self.keys)
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha must be in [0, 1], got {alpha}")
        opened = _opened(store)
        self.classes = opened.classes
        self.mix = Mix(method="geols", channels=opened.channels, alpha=alpha, normalize=normalize)
        self.maps_key, self.present_key, self.soft_key = maps_key, present_key, soft_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the soft label."""
        label, maps = data[self.label_key], _plain(data[self.maps_key])
        indices = self.indices(_plain(label))
        if indices.shape != maps.shape[1:] or _are_apart(label, data[self.maps_key]):
            raise InputError(
                f"maps of shape {tuple(maps.shape)} and {self.label_key!r} of shape {tuple(label.shape)} lie in "
                f"different places; give {self.maps_key!r} to every spatial transform that has {self.label_key!r}"
            )
        # splines overshoot
        stored = maps.clamp(0, 255)
        present = torch.as_tensor(data[self.present_key], device=maps.device)
        soft = self.mix.soft_label(indices[None], stored[None], present[None], len(self.classes))[0]
        meta = dict(label.meta) if isinstance(label, MetaTensor) else None
        return {**data, self.soft_key: soft if meta is None else MetaTensor(soft, meta=meta)}

    def indices(self, label: torch.Tensor) -> torch.Tensor:
        """Return a label [1,x,y,z] of file values as class indices [x,y,z] uint8, 255 where ignored.

        Raises:
            InputError: more than one channel, or a value that no class has.
        """
        if label.shape[0] != 1:
            raise InputError(
                f"{self.label_key!r} has {label.shape[0]} channels; the label map itself is needed, in one channel, "
                "not one-hot"
            )
        values = label[0].cpu().numpy()
        whole = np.rint(values).astype(np.int32)
        if (between := values != whole).any():
            raise InputError(
                f"{self.label_key!r} has values between those of classes, such as {values[between][0]:.4g}: it was "
                'interpolated. Give it mode="nearest" in every transform that resamples, and with Compose(lazy=True) '
                f'overrides={{{self.label_key!r}: {{"mode": "nearest"}}}}'
            )
        return torch.from_numpy(self.classes.indices(whole)).to(label.device)


def soft_dice_ce_loss(**options: Any) -> DiceCELoss:
    """Return MONAI's DiceCELoss for logits and soft labels [b,c,x,y,z]: smallest where both are equal.

    DiceCELoss has no argument for it, and as it comes its Dice term pulls probabilities to 0 and 1, which takes the
    smoothing back. On one-hot labels nothing changes. Voxels whose soft label is zero, as those of the ignore label
    are, do not count in the Dice term, and add nothing to the cross-entropy, whose mean is over all voxels.

    Args:
        options: of DiceCELoss, such as include_background, lambda_dice and batch; softmax is True.

    Raises:
        InputError: an option by which the target could not be a soft label over classes.

    Example:
        >>> import torch
        >>> loss = soft_dice_ce_loss(include_background=False)
        >>> soft = torch.tensor([0.7, 0.2, 0.1]).reshape(1, 3, 1, 1, 1).expand(1, 3, 4, 4, 4)
        >>> round(loss(soft.log(), soft).item() + (soft * soft.log()).sum(dim=1).mean().item(), 5)
        0.0
    """
    for name in ("sigmoid", "to_onehot_y", "other_act"):
        if options.get(name):
            raise InputError(f"{name} does not go with soft labels, which are probabilities of exclusive classes")
    loss = DiceCELoss(**{"softmax": True, **options})
    loss.dice.soft_label = True
    # a number that is no class: voxels of which no class has a part
    loss.dice.ignore_index = -1
    return loss


# --- grids ------------------------------------------------------------------------------------------------------------


def to_monai(maps_KZYX: UInt8Array, geometry: Geometry) -> tuple[UInt8Array, Float64Array]:
    """Return what a store holds as MONAI has it: maps [k,x,y,z], and the 4×4 matrix from their indices to mm.

    The matrix goes to the right, to the front and up (RAS), as those of NIfTI and MONAI do; a store's geometry goes to
    the left, to the back and up, as SimpleITK's does.
    """
    return np.ascontiguousarray(maps_KZYX.transpose(0, 3, 2, 1)), RAS_TO_LPS @ geometry.affine


def _is_same_grid(image: Any, geometry: Geometry, affine: Float64Array) -> bool:
    if tuple(image.shape[1:]) != geometry.size:
        return False
    codes = [int(image.meta.get(name, 1)) for name in ("sform_code", "qform_code")]
    if not any(codes):
        # the file declares no place, so that each reader puts it somewhere else; its voxels are in one order
        return np.allclose(_voxel_size(image), geometry.spacing, rtol=1e-3)
    apart_mm = farthest(_affine(image), affine, geometry.size)
    return bool(apart_mm <= SAME_WITHIN * min(geometry.spacing))


def _require_same_place(image: Any, geometry: Geometry, affine: Float64Array, store: LabelStore, case: str) -> None:
    """Refuse an image that does not fill the volume of the maps, or on whose grid the maps ought to lie and do not.

    Raises:
        InputError: it is so.
    """
    has_own_grid = store.preprocessing.spacing is not None or store.preprocessing.orientation is not None
    if has_own_grid and _is_same_volume(_affine(image), tuple(image.shape[1:]), affine, geometry.size):
        return
    raise InputError(
        f"{case}: the maps lie on {_described(geometry.size, geometry.spacing, affine)}, the image on "
        f"{_described(tuple(image.shape[1:]), _voxel_size(image), _affine(image))}. Put LoadGeoLSd straight after "
        "LoadImaged, before what crops, turns or resamples; if it is there, this is not the image that the maps were "
        "computed from"
    )


def _is_same_volume(
    image_affine: Float64Array, image_size: tuple[int, ...], affine: Float64Array, size: tuple[int, ...]
) -> bool:
    """Whether the faces of two grids' boxes lie within a voxel of each; what resampling and turning may do."""
    to_maps = np.linalg.inv(affine) @ image_affine
    corners = np.array([[*np.where(bits, np.array(image_size) - 0.5, -0.5), 1] for bits in np.ndindex(2, 2, 2)])
    places = (corners @ to_maps.T)[:, :3]
    allowed = 1 + np.abs(to_maps[:3, :3]).sum(axis=1)
    low, high = places.min(axis=0) + 0.5, places.max(axis=0) - (np.array(size) - 0.5)
    return bool((np.abs(low) <= allowed).all() and (np.abs(high) <= allowed).all())


def _are_apart(label: Any, maps: Any) -> bool:
    """Whether voxels of label and maps lie half a voxel or more apart, as after a flip of one of them."""
    if not isinstance(label, MetaTensor) or not isinstance(maps, MetaTensor):
        return False
    size = (*label.shape[1:], 1)[:3]
    return farthest(_affine(label), _affine(maps), size) >= _voxel_size(label).min() / 2


def _described(size: tuple[int, ...], spacing: Any, affine: Float64Array) -> str:
    voxels, mm, first = (", ".join(f"{v:.6g}" for v in values) for values in (size, spacing, affine[:3, 3]))
    return f"({voxels}) voxels of ({mm}) mm, the first at ({first})"


def _affine(image: Any) -> Float64Array:
    affine: Float64Array = image.affine.cpu().numpy().astype(np.float64)
    return affine


def _voxel_size(image: Any) -> Float64Array:
    size: Float64Array = np.linalg.norm(_affine(image)[:3, :3], axis=0)
    return size


def _opened(store: LabelStore | str | os.PathLike[str]) -> LabelStore:
    return store if isinstance(store, LabelStore) else LabelStore.open(store)


def _only(keys: tuple[Hashable, ...]) -> Hashable:
    if len(keys) != 1:
        raise InputError(f"one key is needed, got {', '.join(map(str, keys))}; maps and soft labels are of one image")
    return keys[0]


def _plain(tensor: Any) -> torch.Tensor:
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else torch.as_tensor(tensor)

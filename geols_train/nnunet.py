"""GeoLS in nnU-Net v2: a mixin before any of its trainers. Validation, inference and whatever is not here are its own.

The idea: cross-entropy is linear in its target. So a soft label y changes nnU-Net's loss by a term of its own,

    mean over voxels of Σ_c (onehot_c - y_c) · logit_c,    onehot - y = α (onehot - g̃)

(the sums of y and onehot over classes are 1, so that the normaliser of the softmax falls out), and the loss of nnU-Net
is added to as it stands: its Dice, ignored voxels, deep supervision, and what distributed training does with it. The
same holds for the binary cross-entropy of regions, in which a region's y is the sum of those of its classes. At α = 0
the term is 0.

Maps are cut with the patch, behind the channels of the image; go through the augmentation as batchgeneratorsv2's
`regression_target`, which spatial transforms move as they move images, and others leave alone; and reach the device as
bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.robust_ce_loss import RobustCrossEntropyLoss
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.nn import functional

from geols_precompute.arrays import Float32Array
from geols_precompute.data.layouts.preprocessed import stores_beside
from geols_precompute.errors import InputError, StoreError
from geols_precompute.run.current import require_current
from geols_precompute.store.reader import LabelStore
from geols_train.data import present_classes
from geols_train.targets import class_maps, one_hot

#: The trainer's name may say α: nnUNetTrainerGeoLS_a0p2 is 0.2, and its results lie in folders of their own.
_NAME = re.compile(r"nnUNetTrainerGeoLS_a(0|1|0p\d{1,4}|1p0)")
DEFAULT_ALPHA = 0.1


if TYPE_CHECKING:  # what the mixin stands before
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as _Trainer
else:
    _Trainer = object


class GeoLSTrainerMixin(_Trainer):  # type: ignore[misc]
    """Before any nnU-Net trainer whose loss is cross-entropy, with or without Dice: trains it on GeoLS soft labels.

    The maps come from the store that `geols-precompute --nnunet` has put beside the preprocessed data; GEOLS_LABELS
    names another one there, or the path of one.

    Attributes:
        geols_alpha: share of the geodesic part, in [0, 1]; None is the environment variable GEOLS_ALPHA, else 0.1.

    Example:
        >>> class Mine(GeoLSTrainerMixin, nnUNetTrainer_5epochs):       # doctest: +SKIP
        ...     geols_alpha = 0.2
    """

    geols_alpha: float | None = None
    loss: Any

    @cached_property
    def geols_store(self) -> LabelStore:
        """The maps of this configuration's cases.

        Raises:
            StoreError: they are not there, or of other classes.
        """
        folder, name = stores_beside(Path(self.preprocessed_dataset_folder)), os.environ.get("GEOLS_LABELS", "labels")
        path = Path(name) if "/" in name else folder / f"{name.removesuffix('.zarr')}.zarr"
        if not path.exists():
            raise StoreError(f"no label store {path}; run {self._geols_command}")
        store = LabelStore.open(path)
        wanted = sorted({0, *self.label_manager.all_labels})
        if list(store.classes.values) != wanted or store.classes.ignore != self.label_manager.ignore_label:
            raise StoreError(
                f"{path} has the classes {store.classes}, but nnU-Net trains on the values {wanted} and ignores "
                f"{self.label_manager.ignore_label}; run {self._geols_command} without --classes"
            )
        return store

    @property
    def _geols_command(self) -> str:
        return (
            f"geols-precompute --nnunet {self.plans_manager.dataset_name} -c {self.configuration_name} "
            f"-p {self.plans_manager.plans_name}"
        )

    def on_train_start(self) -> None:
        """Begin as nnU-Net does, then put the soft label into its loss.

        Raises:
            InputError: α is no number in [0, 1], or the loss cannot take a soft label.
        """
        alpha = alpha_of(self.geols_alpha)
        super().on_train_start()
        regions = self.label_manager.foreground_regions if self.label_manager.has_regions else None
        self.loss = SoftLabelLoss(
            self.loss, self.geols_store, alpha=alpha, regions=regions, ignore=self.label_manager.ignore_label
        )
        self.print_to_log_file(
            f"GeoLS: alpha {alpha:g}, maps {self.geols_store.path}, digest {self.geols_store.digest}",
        )

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return nnU-Net's data sets; that for training has maps behind the channels of its images."""
        train, validation = super().get_tr_and_val_datasets()
        require_current(
            self.geols_store,
            Path(self.preprocessed_dataset_folder),
            train.identifiers,
            remedy=self._geols_command,
        )
        return WithMaps(train, self.geols_store), validation

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Return nnU-Net's transforms, taught to move maps; it calls this static method of its own by `self`."""
        transforms = super().get_training_transforms(*args, **kwargs)
        return MovesMaps(transforms, len(self.geols_store.channels))

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train as nnU-Net does; the loss also needs to know which classes the cases have."""
        self.loss.cases = [str(case) for case in batch["keys"]]
        return super().train_step(batch)

    def save_checkpoint(self, filename: str) -> None:
        """Save as nnU-Net does, under the name of its own trainer, so that the model predicts where geols is not.

        nnU-Net takes the trainer that a checkpoint names for the network only, which is the same; a trainer with
        another network keeps its name.
        """
        own = type(self)
        stock: Any = next(base for base in own.__mro__ if not issubclass(base, GeoLSTrainerMixin))
        if own.build_network_architecture is not stock.build_network_architecture:
            super().save_checkpoint(filename)
            return
        name, own.__name__ = own.__name__, stock.__name__
        try:
            super().save_checkpoint(filename)
        finally:
            own.__name__ = name


def alpha_of(given: float | None) -> float:
    """Return α: as given, else as the environment variable GEOLS_ALPHA says, else 0.1.

    Raises:
        InputError: it is no number in [0, 1].
    """
    text = os.environ.get("GEOLS_ALPHA", str(DEFAULT_ALPHA)) if given is None else str(given)
    try:
        alpha = float(text)
    except ValueError:
        alpha = -1.0
    if not 0 <= alpha <= 1:
        raise InputError(f"GEOLS_ALPHA must be a number in [0, 1], got {text!r}")
    return alpha


# --- data -------------------------------------------------------------------------------------------------------------


class WithMaps:
    """A data set of nnU-Net whose cases have maps behind the channels of their images."""

    def __init__(self, dataset: Any, store: LabelStore) -> None:
        self.dataset, self.store = dataset, store
        self.identifiers = dataset.identifiers

    def load_case(self, case: str) -> tuple[Any, ...]:
        """Return what nnU-Net's data set does, with maps."""
        data, *rest = self.dataset.load_case(case)
        return ImageAndMaps(data, self.store, case), *rest

    __getitem__ = load_case


class ImageAndMaps:
    """The image and the maps of a case as one array [channel,z,y,x] float32, read where it is sliced.

    Attributes:
        shape, ndim, dtype: as of an array.
    """

    dtype = np.dtype(np.float32)
    ndim = 4

    def __init__(self, image: Any, store: LabelStore, case: str) -> None:
        self.image, self.store, self.case = image, store, case
        self.shape = (image.shape[0] + len(store.channels), *image.shape[1:])

    def __getitem__(self, key: tuple[slice, ...]) -> Float32Array:
        channels, *box = key
        if channels.indices(self.shape[0]) != (0, self.shape[0], 1):
            raise InputError(f"{self.case}: image and maps are cut together, not the channels {channels}")
        z, y, x = (slice(*s.indices(n)[:2]) for s, n in zip(box, self.shape[1:], strict=True))
        image = np.asarray(self.image[:, z, y, x], np.float32)
        return np.concatenate((image, self.store.maps(self.case, (z, y, x))), dtype=np.float32)


class MovesMaps(BasicTransform):  # type: ignore[misc]  # untyped
    """nnU-Net's transforms around an image with maps behind its channels: maps are moved, and come out as bytes.

    They are the last of the list of targets, uint8 [k,z,y,x] at full resolution.
    """

    def __init__(self, transforms: BasicTransform, n_maps: int) -> None:
        super().__init__()
        self.transforms, self.n_maps = transforms, n_maps

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Apply them to {image, segmentation}."""
        both = data_dict["image"]
        image, maps = both[: -self.n_maps].contiguous(), both[-self.n_maps :].contiguous()
        moved: dict[str, Any] = self.transforms(**{**data_dict, "image": image, "regression_target": maps})
        stored = moved.pop("regression_target").round_().clamp_(0, 255).to(torch.uint8)
        labels = moved["segmentation"]
        moved["segmentation"] = [*(labels if isinstance(labels, list) else [labels]), stored]
        return moved


# --- loss -------------------------------------------------------------------------------------------------------------


class SoftLabelLoss(nn.Module):
    """A loss of nnU-Net, and what a soft label adds to its cross-entropy. Without maps it is that loss.

    Args:
        stock: nnU-Net's loss, with or without its wrapper for deep supervision.
        store: the maps.
        alpha: share of the geodesic part.
        regions: the label values of each region, where the network has an output for each; None if it has classes.
        ignore: the label value to ignore.

    Attributes:
        cases: of the batch to come.

    Raises:
        InputError: its loss is not one whose cross-entropy is known.
    """

    def __init__(
        self,
        stock: nn.Module,
        store: LabelStore,
        *,
        alpha: float,
        regions: Sequence[Any] | None,
        ignore: int | None,
    ) -> None:
        super().__init__()
        self.stock, self.store, self.alpha, self.ignore = stock, store, alpha, ignore
        self.weights = getattr(stock, "weight_factors", (1.0,))
        self.weight = alpha * _weight_of_cross_entropy(getattr(stock, "loss", stock))
        index = store.classes.index_of
        members = [r if isinstance(r, tuple | list) else [r] for r in regions or ()]
        self.regions = [[index(int(value)) for value in region] for region in members]
        self.cases: list[str] = []
        self._present: dict[str, torch.Tensor] = {}

    def forward(self, output: Any, target: Any) -> torch.Tensor:
        """Return the loss.

        Args:
            output: logits [b,c,...], or a list of them from fine to coarse.
            target: the labels as nnU-Net has them, in training followed by the maps [b,k,...] uint8.
        """
        outputs = list(output) if isinstance(output, tuple | list) else [output]
        targets = list(target) if isinstance(target, tuple | list) else [target]
        if len(targets) == len(outputs):  # validation
            return self.stock(output, target)
        *labels, maps = targets
        loss: torch.Tensor = self.stock(output, labels if isinstance(output, tuple | list) else labels[0])
        present = torch.stack([self._classes_of(case) for case in self.cases]).to(maps.device)
        for weight, logits, label in zip(self.weights, outputs, labels, strict=True):
            if weight != 0:
                # as nnU-Net scales labels, so that a voxel keeps its own maps
                scaled = maps
                if maps.shape[2:] != logits.shape[2:]:
                    scaled = functional.interpolate(maps, tuple(logits.shape[2:]), mode="nearest-exact")
                loss = loss + weight * self.weight * self._term(logits, label, scaled, present)
        return loss

    def _term(
        self, logits: torch.Tensor, label: torch.Tensor, maps: torch.Tensor, present: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean over voxels of Σ_c (onehot_c - g̃_c) · logit_c."""
        with torch.autocast(logits.device.type, enabled=False):
            hard, counted = self._hard(label)
            g = class_maps(maps, channels=self.store.channels, present=present, n_classes=len(self.store.classes))
            total = g.sum(dim=1, keepdim=True)
            # where every map is zero the label stays hard; a voxel that is ignored counts for nothing
            share = torch.where(counted & (total > 0), 1 / torch.where(total > 0, total, 1), 0)
            g *= share
            if self.regions:
                g = torch.stack([g[:, members].sum(dim=1) for members in self.regions], dim=1)
            change = hard * (share > 0) - g
            voxels = counted.sum().clamp(min=1)
            # nnU-Net's binary cross-entropy is a mean over regions, too, unless voxels are ignored
            outputs = len(self.regions) if self.regions and self.ignore is None else 1
            return (change * logits.float()).sum() / (voxels * outputs)

    def _hard(self, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (the hard label of each output [b,c,...] float32, whether voxels count [b,1,...] bool)."""
        counted = torch.ones_like(label[:, :1], dtype=torch.bool)
        if self.regions:
            if self.ignore is not None:
                counted = ~label[:, -1:].bool()
            return label[:, : len(self.regions)].float(), counted
        if self.ignore is not None:
            counted = label != self.ignore
        return one_hot(torch.where(counted, label, 0)[:, 0], len(self.store.classes)), counted

    def _classes_of(self, case: str) -> torch.Tensor:
        if case not in self._present:
            self._present[case] = torch.from_numpy(present_classes(self.store, case))
        return self._present[case]


def _weight_of_cross_entropy(loss: Any) -> float:
    """Return the weight of the cross-entropy in a loss of nnU-Net.

    Raises:
        InputError: it has none, or one that is not a plain mean over voxels.
    """
    if type(loss) in (DC_and_CE_loss, DC_and_BCE_loss):
        weight, cross_entropy = float(loss.weight_ce), loss.ce
    else:
        weight, cross_entropy = 1.0, loss
    is_cross_entropy = type(cross_entropy) in (RobustCrossEntropyLoss, nn.BCEWithLogitsLoss)
    weights = (getattr(cross_entropy, name, None) for name in ("weight", "pos_weight"))
    is_plain = all(each is None for each in weights) and getattr(cross_entropy, "label_smoothing", 0.0) == 0
    if not (is_cross_entropy and is_plain):
        raise InputError(
            f"GeoLS softens the label of nnU-Net's cross-entropy, and this trainer's loss is {type(loss).__name__}; "
            "put the mixin before a trainer that has cross-entropy without weights or smoothing"
        )
    return weight


# --- trainers by name -------------------------------------------------------------------------------------------------


class nnUNetTrainerGeoLS(GeoLSTrainerMixin, nnUNetTrainer):  # type: ignore[misc]  # noqa: N801  # as nnU-Net has it
    """nnU-Net's trainer on GeoLS soft labels."""


@cache  # one class for one name, or it could not be pickled
def trainer_named(name: str) -> type[nnUNetTrainer]:
    """Return the trainer of a name such as nnUNetTrainerGeoLS_a0p2.

    Raises:
        AttributeError: the name is not of this form.
    """
    if not (match := _NAME.fullmatch(name)):
        raise AttributeError(f"no trainer {name}; α is in the name as in nnUNetTrainerGeoLS_a0p2")
    return type(name, (nnUNetTrainerGeoLS,), {"geols_alpha": float(match[1].replace("p", ".")), "__module__": __name__})


def __getattr__(name: str) -> Callable[..., Any]:
    """Make a trainer of this name, so that it can be imported and pickled."""
    return trainer_named(name)

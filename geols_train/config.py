"""Configuration: one frozen dataclass from defaults, a TOML file and flags, saved with the run."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from geols_precompute.errors import RecipeError
from geols_precompute.softlabel import Method, Normalize
from geols_train.augment import Augment
from geols_train.hardware import Precision
from geols_train.unet import PAPER_FEATURES, require_size
from geols_train.windows import Size

Schedule = Literal["constant", "poly"]
Extent = Literal["whole", "crop"]
Cache = Literal["none", "ram", "device"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run does; the defaults are the paper's where it states them.

    Attributes:
        data: data folder, or the folder of the stores itself.
        labels: name of a label store beside the volumes, or the path of one.
        method: geols, ce (cross-entropy), ls (label smoothing), fl (focal loss) or svls.
        alpha: share of the smooth term, 0 to 1; of geols and ls.
        normalize: sum (g divided by its sum over classes, the paper) or none (the published code); of geols.
        focal_gamma: γ of fl; 3 in the authors' code, 2 in the original.
        dice_weight: weight of a Dice term beside the loss; 0 leaves it out.
        epochs: passes over the training cases.
        batch_size: windows per batch.
        accumulate: batches per step of the optimiser, whose gradients are averaged: a larger batch in the same memory.
        lr: learning rate of Adam at the start.
        weight_decay: of Adam.
        schedule: constant, or poly: lr · (1 - step / steps)^0.9.
        crop: (z,y,x) voxels of the centre crop that is trained on; None takes the recipe's, else the median size.
        window: (z,y,x) voxels of random windows, in place of the centre crop.
        features: channels per level of the U-Net.
        augment: paper (transpose and flip, whole batches), flips, or none.
        flip_axes: of augment = flips: which of z, y and x may be flipped.
        intensity: also vary noise, brightness, contrast and gamma of the images, as nnU-Net does.
        split: TRAIN,VALIDATION,TEST as counts or fractions, a split.json, or nnU-Net's splits_final.json[:FOLD].
        split_seed: of a drawn split; it does not change with random_seed.
        repeats: trainings with random_seed, random_seed + 1, ...; the summary gives mean and standard deviation.
        random_seed: of the weights, the order, the windows and the augmentation.
        eval: whole (overlapping windows over whole volumes) or crop (the centre crop only, the paper's way).
        overlap: share of a window that its neighbour covers too, from 0 to below 1.
        cache: where training cases are kept decoded: in ram, on the device, or (none) read every time.
        workers: processes that load batches; None is 4 for an accelerator and 0 (this process) for a CPU.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto (bf16 autocast where the hardware has it), bf16 or float32.
        compile: run the network through torch.compile in training.
        channels_last: keep the channels of a voxel together in memory, to try on a GPU together with `compile`.
        tensorboard: also write TensorBoard files.
        profile: print where the time of the steps went; measuring makes an accelerator wait.
    """

    data: Path = Path("data")
    labels: str = "labels"
    method: Method = "geols"
    alpha: float = 0.1
    normalize: Normalize = "sum"
    focal_gamma: float = 3.0
    dice_weight: float = 0.0
    epochs: int = 200
    batch_size: int = 4
    accumulate: int = 1
    lr: float = 1e-4
    weight_decay: float = 1e-4
    schedule: Schedule = "constant"
    crop: Size | None = None
    window: Size | None = None
    features: tuple[int, ...] = PAPER_FEATURES
    augment: Augment = "paper"
    flip_axes: str = "zyx"
    intensity: bool = False
    split: str = "0.7,0.1,0.2"
    split_seed: int = 0
    repeats: int = 1
    random_seed: int = 0
    eval: Extent = "whole"
    overlap: float = 0.5
    cache: Cache = "none"
    workers: int | None = None
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    channels_last: bool = False
    tensorboard: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        for names, valid, expected in _RULES:
            for name in names.split():
                if not valid(value := getattr(self, name)):
                    raise RecipeError(f"--{name.replace('_', '-')} must be {expected}, got {value!r}")
        for name in ("crop", "window"):
            if size := getattr(self, name):
                require_size(size, self.features, f"--{name}")
        if self.crop and self.window:
            raise RecipeError("--crop is a fixed centre crop and --window a random place: give one of them")

    @property
    def run_name(self) -> str:
        """A folder name that says what sets a run apart, for example `labels-geols-0.1`."""
        stem = Path(self.labels).name.removesuffix(".zip").removesuffix(".zarr")
        parts = [stem] if self.method == "geols" else []
        return "-".join([*parts, self.method, *([f"{self.alpha:g}"] if self.method in ("geols", "ls") else [])])

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration of a TOML document or of flags; what is not named keeps its default.

        Raises:
            RecipeError: an unknown key, or a value of a wrong type or out of range.
        """
        known = {f.name for f in fields(cls)}
        if unknown := set(values) - known:
            raise RecipeError(f"unknown setting {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}")
        return cls(**{name: _converted(name, value) for name, value in values.items()})

    def to_toml(self) -> str:
        """Return the configuration as TOML; what is None is left out."""
        values = {name: str(value) if name == "data" else value for name, value in asdict(self).items()}
        return "".join(
            f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items() if value is not None
        )


def read_toml(path: Path) -> dict[str, Any]:
    """Return the settings of a TOML file.

    Raises:
        RecipeError: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def _converted(name: str, value: Any) -> Any:
    try:
        if name == "data":
            return Path(value)
        if name in ("crop", "window", "features") and value is not None:
            return tuple(value)
    except TypeError as error:
        raise RecipeError(f"{name} is {value!r}, which is of a wrong type") from error
    if name == "split" and isinstance(value, list):
        return ",".join(map(str, value))
    return value


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _size(value: Any) -> bool:
    return value is None or (len(value) == 3 and all(_whole(n) and n for n in value))


_Rule = tuple[str, Callable[[Any], bool], str]


def _choice(name: str, kind: Any) -> _Rule:
    allowed = get_args(kind)
    return name, lambda value: value in allowed, f"one of {', '.join(allowed)}"


#: Names of settings, what is valid, and how to say so.
_RULES: tuple[_Rule, ...] = (
    _choice("method", Method),
    _choice("normalize", Normalize),
    _choice("augment", Augment),
    _choice("schedule", Schedule),
    _choice("eval", Extent),
    _choice("cache", Cache),
    _choice("precision", Precision),
    ("alpha", lambda v: _finite(v) and 0 <= v <= 1, "in [0, 1]"),
    ("lr", lambda v: _finite(v) and v > 0, "a positive number"),
    ("focal_gamma dice_weight weight_decay", lambda v: _finite(v) and v >= 0, "a number of at least 0"),
    ("overlap", lambda v: _finite(v) and 0 <= v < 1, "from 0 to below 1"),
    ("epochs batch_size accumulate repeats", lambda v: _whole(v) and v >= 1, "a count of at least 1"),
    ("split_seed random_seed", _whole, "a whole number of at least 0"),
    ("workers", lambda v: v is None or _whole(v), "a count of processes"),
    ("features", lambda v: bool(v) and all(_whole(n) and n for n in v), "channel counts of at least 1"),
    ("crop window", _size, "three voxel counts (z, y, x) of at least 1"),
    ("flip_axes", lambda v: isinstance(v, str) and bool(v) and set(v) <= set("zyx"), "some of z, y and x"),
    ("labels split device", lambda v: isinstance(v, str) and bool(v), "a text"),
    ("intensity compile channels_last tensorboard profile", lambda v: isinstance(v, bool), "true or false"),
)

"""Configuration: every setting of a training, written once; flags, help, checks and TOML are made from it."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from geols_precompute.errors import RecipeError
from geols_precompute.formatting import listed
from geols_precompute.softlabel import WIDTHS, MethodName, Normalize

Augment = Literal["paper", "flips", "none"]
Cache = Literal["none", "ram", "device"]
Extent = Literal["whole", "crop"]
Criterion = Literal["dice", "regions", "loss"]
Precision = Literal["auto", "bf16", "tf32", "float32"]
Schedule = Literal["constant", "poly"]
#: Voxels along z, y and x.
Size = tuple[int, int, int]
#: Channels of a level, and voxels along an axis.
MOST = 2**16
#: Bytes of a text that is read whole: settings, a split, a summary.
LARGEST_TEXT = 16 * 2**20
#: Six levels: 16,508,340 parameters for 4 input modalities and 4 classes.
PAPER_FEATURES = (16, 32, 64, 128, 256, 512)

#: Settings that only these methods read, and what they are if none is given.
OWN_SETTINGS: dict[str, Mapping[MethodName, float]] = {
    "width": WIDTHS,
    "penalty": {"nacl": 0.1, "mbls": 0.1},
    "margin": {"mbls": 10.0},
}

# --- kinds of values --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What values a setting takes.

    Attributes:
        flag: how a flag reads them: a type, `counts` for N,N,..., `size` for three numbers, or the words there are.
        valid: whether a value is allowed.
        expected: what is, in words.
        convert: from what a TOML file has.
    """

    flag: type | Literal["counts", "size"] | tuple[str, ...]
    valid: Callable[[Any], bool]
    expected: str
    convert: Callable[[Any], Any] = lambda value: value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_counts(values: Sequence[Any]) -> bool:
    return all(_is_whole(n) and 1 <= n <= MOST for n in values)


def _choice(literal: Any) -> Kind:
    words = get_args(literal)
    return Kind(flag=words, valid=lambda v: v in words, expected=f"one of {', '.join(words)}")


_SHARE = Kind(flag=float, valid=lambda v: _is_number(v) and 0 <= v <= 1, expected="in [0, 1]")
_OVERLAP = Kind(flag=float, valid=lambda v: _is_number(v) and 0 <= v < 1, expected="from 0 to below 1")
_POSITIVE = Kind(flag=float, valid=lambda v: _is_number(v) and v > 0, expected="a positive number")
_NOT_NEGATIVE = Kind(flag=float, valid=lambda v: _is_number(v) and v >= 0, expected="a number of at least 0")
_OPTIONAL_NOT_NEGATIVE = Kind(
    flag=float, valid=lambda v: v is None or _NOT_NEGATIVE.valid(v), expected=_NOT_NEGATIVE.expected
)
_COUNT = Kind(flag=int, valid=lambda v: _is_whole(v) and v >= 1, expected="a count of at least 1")
_SEED = Kind(flag=int, valid=lambda v: _is_whole(v) and v < 2**63, expected="a whole number from 0 to below 2^63")
_PROCESSES = Kind(flag=int, valid=lambda v: v is None or _is_whole(v), expected="a count of processes")
_TEXT = Kind(flag=str, valid=lambda v: isinstance(v, str) and bool(v) and "\0" not in v, expected="a text")
_OPTIONAL_POSITIVE = Kind(flag=float, valid=lambda v: v is None or _POSITIVE.valid(v), expected=_POSITIVE.expected)
_OPTIONAL_TEXT = Kind(flag=str, valid=lambda v: v is None or _TEXT.valid(v), expected=_TEXT.expected)
_AXES = Kind(
    flag=str,
    valid=lambda v: isinstance(v, str) and bool(v) and set(v) <= set("zyx") and len(set(v)) == len(v),
    expected="some of z, y and x, none of them twice",
)
_SWITCH = Kind(flag=bool, valid=lambda v: isinstance(v, bool), expected="true or false")
_FOLDER = Kind(flag=Path, valid=lambda v: isinstance(v, Path) and "\0" not in str(v), expected="a folder", convert=Path)
_FEATURES = Kind(
    flag="counts", valid=lambda v: bool(v) and _are_counts(v), expected=f"channel counts of 1 to {MOST}", convert=tuple
)
_SIZE = Kind(
    flag="size",
    valid=lambda v: v is None or (len(v) == 3 and _are_counts(v)),
    expected=f"three voxel counts (z, y, x) of 1 to {MOST}",
    convert=lambda v: v if v is None else tuple(v),
)
_SPLIT = Kind(
    flag=str,
    valid=_TEXT.valid,
    expected=_TEXT.expected,
    convert=lambda v: ",".join(map(str, v)) if isinstance(v, list) else v,
)

# --- settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Option:
    """What is said of a setting, beside its name, type and default: the metadata of a field of `TrainConfig`.

    Attributes:
        kind: what values it takes.
        heading: under which `--help` lists it; empty if it has no flag.
        help: a sentence for `--help`.
        shown: the default in words; by default the value itself.
        may_change: whether a run may be resumed with another value, because that changes none of its numbers.
    """

    kind: Kind
    heading: str
    help: str
    shown: str
    may_change: bool


def option(
    default: Any,
    kind: Kind,
    heading: str,
    text: str,
    *,
    shown: str | None = None,
    may_change: bool = False,
) -> Any:
    """Return the field of a setting, whose help is `text`; see `Option`."""
    shown = _as_text(default) if shown is None else shown
    said = Option(kind=kind, heading=heading, help=text, shown=shown, may_change=may_change)
    return field(default=default, metadata={"option": said})


def _as_text(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


_METHOD, _DATA, _OPTIMISATION, _NETWORK = "Method", "Data and split", "Optimisation", "Network and size"
_AUGMENTATION, _EVALUATION, _HARDWARE, OUTPUT = "Augmentation", "Evaluation", "Where it runs", "Output"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run does; the defaults are the paper's where it states them. `geols-train --help` lists every setting.

    Raises:
        RecipeError: a value is out of range; the message names its flag.
    """

    data: Path = option(
        Path("data"), _FOLDER, "", "The data folder, or the folder of the stores itself.", may_change=True
    )

    method: MethodName = option("geols", _choice(MethodName), _METHOD, "Target and loss.")
    alpha: float = option(0.1, _SHARE, _METHOD, "Share of the smooth term, 0 to 1 (geols, ls, dilate, bls).")
    width: float | None = option(
        None,
        _OPTIONAL_POSITIVE,
        _METHOD,
        "Of the smooth part: mm (gauss, sdf, dilate, bls), or classes (nuls).",
        shown="1 mm, 0.5 classes",
    )
    penalty: float | None = option(
        None, _OPTIONAL_NOT_NEGATIVE, _METHOD, "Weight of the penalty on logits (nacl, mbls).", shown="0.1"
    )
    margin: float | None = option(
        None, _OPTIONAL_NOT_NEGATIVE, _METHOD, "How far logits may lie apart, without a penalty (mbls).", shown="10"
    )
    normalize: Normalize = option("sum", _choice(Normalize), _METHOD, "Of the maps over the classes.")
    focal_gamma: float = option(3.0, _NOT_NEGATIVE, _METHOD, "γ of fl, no unit; 3 is its authors', 2 the original.")
    dice_weight: float = option(0.0, _NOT_NEGATIVE, _METHOD, "Weight of a Dice term for soft targets.")

    labels: str = option("labels", _TEXT, _DATA, "Label store beside the volumes, by name, or by path.")
    split: str = option(
        "0.7,0.1,0.2", _SPLIT, _DATA, "TRAIN,VALIDATION,TEST in cases or fractions, or a file: split.json or nnU-Net's."
    )
    split_seed: int = option(0, _SEED, _DATA, "Of a drawn split.")
    group: str | None = option(
        None,
        _OPTIONAL_TEXT,
        _DATA,
        "Patients of cases, who are split whole: CSV or JSON (case, patient), or a pattern of ids: '(.*)_week[0-9]+'.",
        shown="none",
    )

    epochs: int = option(200, _COUNT, _OPTIMISATION, "Passes over the training cases.")
    batch_size: int = option(4, _COUNT, _OPTIMISATION, "Windows per batch, of all processes together.")
    accumulate: int = option(1, _COUNT, _OPTIMISATION, "Batches per step of the optimiser; gradients are averaged.")
    lr: float = option(1e-4, _POSITIVE, _OPTIMISATION, "Learning rate of Adam at the start.")
    weight_decay: float = option(1e-4, _NOT_NEGATIVE, _OPTIMISATION, "Of Adam.")
    adam_eps: float = option(1e-8, _POSITIVE, _OPTIMISATION, "ε of Adam; some trainers take 1e-4 or 1e-7.")
    schedule: Schedule = option(
        "constant", _choice(Schedule), _OPTIMISATION, "Of the learning rate; poly ends at 0, by a power of 0.9."
    )
    repeats: int = option(1, _COUNT, _OPTIMISATION, "Trainings with different seeds, for mean ± std.")
    random_seed: int = option(0, _SEED, _OPTIMISATION, "Of weights, order, windows and augmentation.")

    features: tuple[int, ...] = option(PAPER_FEATURES, _FEATURES, _NETWORK, "Channels per level.")
    crop: Size | None = option(None, _SIZE, _NETWORK, "Centre crop in voxels.", shown="the recipe's, or median size")
    window: Size | None = option(
        None, _SIZE, _NETWORK, "Random windows in voxels, in place of the centre crop.", shown="none"
    )

    augment: Augment = option(
        "paper", _choice(Augment), _AUGMENTATION, "paper transposes and flips half of the batches."
    )
    flip_axes: str = option("zyx", _AXES, _AUGMENTATION, "Of --augment flips: some of z, y and x.")
    intensity: bool = option(False, _SWITCH, _AUGMENTATION, "Also vary noise, brightness, contrast and gamma.")

    eval: Extent = option("whole", _choice(Extent), _EVALUATION, "What is evaluated of a volume.")
    checkpoint: Criterion = option(
        "dice",
        _choice(Criterion),
        _EVALUATION,
        "What the best epoch is best in, on the validation cases: mean Dice of classes or of regions, or the loss.",
    )
    surface_tolerance: float | None = option(
        None,
        _OPTIONAL_POSITIVE,
        _EVALUATION,
        "Of surface Dice, and width of the border band of the calibration, in mm.",
        shown="1 mm, or a voxel's longest side",
    )
    overlap: float = option(0.5, _OVERLAP, _EVALUATION, "Share of a window that its neighbour has too, 0 to below 1.")

    device: str = option("auto", _TEXT, _HARDWARE, "auto, cpu, cuda, cuda:N or mps.", may_change=True)
    precision: Precision = option(
        "auto",
        _choice(Precision),
        _HARDWARE,
        "auto is bf16 on a GPU that has it, else float32; tf32 is float32 with rounded factors.",
    )
    workers: int | None = option(
        None, _PROCESSES, _HARDWARE, "Processes that load batches.", shown="4, or 0 on a CPU", may_change=True
    )
    cache: Cache = option("none", _choice(Cache), _HARDWARE, "Where to keep training cases.", may_change=True)
    compile: bool = option(False, _SWITCH, _HARDWARE, "Run the network through torch.compile.", may_change=True)
    channels_last: bool = option(
        False,
        _SWITCH,
        _HARDWARE,
        "The memory format of the network, to try on a GPU together with --compile.",
        may_change=True,
    )

    tensorboard: bool = option(False, _SWITCH, OUTPUT, "Also write TensorBoard files.", may_change=True)
    profile: bool = option(False, _SWITCH, OUTPUT, "Print where the time of the steps went.", may_change=True)

    def __post_init__(self) -> None:
        for name, said in options().items():
            if not said.kind.valid(value := getattr(self, name)):
                raise RecipeError(f"--{name.replace('_', '-')} must be {said.kind.expected}, got {value!r}")
        for name, of_method in OWN_SETTINGS.items():
            if getattr(self, name) is None:  # the value itself is kept with a run: a default may change
                object.__setattr__(self, name, of_method.get(self.method))
            elif self.method not in of_method:
                raise RecipeError(
                    f"--{name} belongs to --method {listed(of_method)}; here is --method {self.method}: leave it out"
                )
        for name in ("crop", "window"):
            if size := getattr(self, name):
                require_size(size, self.features, f"--{name}")
        if self.crop and self.window:
            raise RecipeError("--crop is a fixed centre crop and --window a random place: give one of them")

    @property
    def size_flag(self) -> str:
        """The flag that says how large the network's input is."""
        return "--window" if self.window else "--crop"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration of a TOML document or of flags; what is not named keeps its default.

        Raises:
            RecipeError: an unknown key, or a value of a wrong type or out of range.
        """
        known = options()
        if unknown := set(values) - set(known):
            raise RecipeError(f"unknown setting {min(unknown)!r}; known: {', '.join(sorted(known))}")
        converted = {}
        for name, value in values.items():
            try:
                converted[name] = known[name].kind.convert(value)
            except TypeError as error:
                raise RecipeError(f"{name} is {value!r}, which is of a wrong type") from error
        return cls(**converted)

    def to_toml(self) -> str:
        """Return the configuration as TOML; what is None is left out."""
        values = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        return "".join(
            f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items() if value is not None
        )


def options() -> dict[str, Option]:
    """Return what is said of each setting, by name."""
    return {f.name: f.metadata["option"] for f in fields(TrainConfig)}


def read_toml(path: Path) -> dict[str, Any]:
    """Return the settings of a TOML file.

    Raises:
        RecipeError: it cannot be read or is not TOML.
    """
    text = read_small(path)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def read_small(path: Path) -> str:
    """Return the text of a file of settings or of a split, UTF-8 with or without a byte order mark.

    Raises:
        RecipeError: it is no file, cannot be read, or is larger than LARGEST_TEXT.
    """
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise RecipeError(f"{path}: cannot be read: {'not a file' if os.path.lexists(path) else 'no such file'}")
        with path.open("rb") as file:
            content = file.read(LARGEST_TEXT + 1)
        if len(content) > LARGEST_TEXT:
            raise RecipeError(f"{path}: cannot be read: more than {LARGEST_TEXT} bytes, which is no text of this kind")
        return content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{path}: cannot be read: {error}") from error


def smallest_size(features: Sequence[int]) -> int:
    """Return how many voxels per axis a network with these levels needs: each level below the first halves them."""
    return int(2 ** (len(features) - 1))


def require_size(size_ZYX: Sequence[int], features: Sequence[int], what: str) -> None:
    """Refuse a crop or window that would vanish on the way down.

    Raises:
        RecipeError: an axis is shorter than 2^(levels - 1).
    """
    if min(size_ZYX) < (least := smallest_size(features)):
        raise RecipeError(
            f"{what} {' '.join(map(str, size_ZYX))} is too small: {len(features)} levels (--features) need at least "
            f"{least} voxels per axis; take a larger one, or fewer --features"
        )

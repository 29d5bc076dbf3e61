"""What geols-precompute --nnunet means: which folders it reads and writes, and how nnU-Net trains on the stores."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Self

from geols_precompute.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class Preprocessed:
    """What nnU-Net has preprocessed of a data set.

    Attributes:
        dataset: its name or number.
        configurations: those to train.
        plans: the name of its plans.
    """

    dataset: str
    configurations: tuple[str, ...]
    plans: str = "nnUNetPlans"

    @classmethod
    def asked(
        cls,
        dataset: str | None,
        configurations: tuple[str, ...],
        plans: str | None,
        data: Path | None,
        out: Path | None,
    ) -> Self | None:
        """Return what the flags ask for; None if it is not data of nnU-Net.

        Raises:
            RecipeError: flags that do not go together.
        """
        if dataset is None:
            if configurations or plans:
                raise RecipeError("-c and -p belong to --nnunet DATASET")
            return None
        if given := [name for name, value in {"DATA": data, "--out": out}.items() if value is not None]:
            raise RecipeError(
                f"--nnunet finds its cases, and the place of its stores: leave out {' and '.join(given)}; -c takes one "
                "configuration, and may be repeated"
            )
        return cls(dataset=dataset, configurations=configurations or ("3d_fullres",), plans=plans or cls.plans)

    def places(self) -> list[tuple[Path, Path]]:
        """Return the folders with the cases, each with the one for its stores.

        Raises:
            InputError: they cannot be found; see `preprocessed_folders`.
            MissingExtraError: nnU-Net is not installed.
        """
        from geols_precompute.data.layouts.preprocessed import preprocessed_folders, stores_beside

        folders = preprocessed_folders(self.dataset, self.configurations, self.plans)
        return [(folder, stores_beside(folder)) for folder in folders]

    def how_to_train(self) -> list[str]:
        """Return lines for a shell that make nnU-Net find our trainers, and train them."""
        plans = "" if self.plans == type(self).plans else f" -p {self.plans}"
        return [
            "nnU-Net trains on these maps, in fold 0, by",
            _trainers_found(),
            *(f"nnUNetv2_train {self.dataset} {c} 0 -tr nnUNetTrainerGeoLS{plans}" for c in self.configurations),
        ]


def _trainers_found() -> str:
    """Return the line by which nnU-Net finds our trainers: its own variable, or before version 2.8 a link."""
    from nnunetv2 import paths

    folder = Path(str(files("geols_train"))) / "nnunet_trainers"
    if hasattr(paths, "nnUNet_extTrainer"):
        return f"export nnUNet_extTrainer={shlex.quote(str(folder))}"
    own = Path(paths.__file__).parent / "training" / "nnUNetTrainer" / "variants"
    return f"ln -sf {shlex.quote(str(folder / 'geols_trainers.py'))} {shlex.quote(str(own))}/"

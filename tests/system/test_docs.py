"""What the documents show is what the code does: their commands and Python run, their flags exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from servers import nginx

from geols_precompute import LabelStore, VolumeStore, load_recipe
from geols_precompute.cli import precompute as cli
from geols_precompute.cli import store as store_cli
from geols_precompute.store.layout import MAPS, array_metadata
from geols_train import cli as train_cli
from geols_train import cli_evaluate

ROOT = Path(__file__).resolve().parent
while not (ROOT / "pyproject.toml").is_file():
    ROOT = ROOT.parent

DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
#: In place of what the documents say about the network: one that the tests can wait for.
TINY = "--epochs 1 --features 4,8 --split 2,1,1 --device cpu"
#: Flags in the text that are those of sbatch, torchrun, gpg, dask, docker, nnU-Net and workflows/.
FOREIGN = {
    "--array",
    "--c",
    "--dashboard-address",
    "--dependency",
    "--detach-sign",
    "--jobs",
    "--memory",
    "--no-python",
    "--nproc-per-node",
    "--nthreads",
    "--parsable",
    "--plot",
    "--private_key",
    "--protocol",
    "--public_key",
    "--scheduler-file",
    "--shm-size",
    "--signature",
    "--val",
    "--walltime",
    "--wrap",
}


def code_blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def run_python(document: str, *, leave_out: str | None = None) -> dict[str, Any]:
    """Run the Python blocks of a document one after another and return their names; not those that have `leave_out`."""
    names: dict[str, Any] = {}
    for block in code_blocks(document, "python"):
        if leave_out is None or leave_out not in block:
            exec(compile(block, document, "exec"), names)
    return names


def run_bash(script: str, folder: Path) -> str:
    """Run a script in a shell that stops at the first failure, and return what it prints."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def replaced(text: str, replacements: dict[str, str]) -> str:
    for old, new in replacements.items():
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def data(nnunet, tmp_path, monkeypatch) -> Path:
    """The folder data/, beside which the test runs."""
    monkeypatch.chdir(tmp_path)
    return nnunet("data", cases=3)


@pytest.fixture
def computed(data) -> Path:
    """The folder data/ with its stores."""
    assert CliRunner().invoke(cli.precompute, ["--workers", "0", str(data)]).exit_code == 0
    return data


# --- Python -------------------------------------------------------------------------------------------------------


def test_python_in_the_readme_runs(computed):
    names = run_python("README.md")
    assert names["image"].shape == (1, 12, 14, 16)
    assert names["soft"].shape == (3, 12, 14, 16)
    np.testing.assert_allclose(names["soft"].sum(axis=0), 1, atol=1e-6)


def test_python_in_the_quickstart_runs(computed, capsys):
    names = run_python("docs/index.md")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == names["store"].digest
    assert said[3] == "case_02 (12, 14, 16) ['background', 'organ1', 'organ2']"


def test_python_in_the_sharing_document_runs(computed):
    names = run_python("docs/sharing.md")
    labels, volumes, box = names["labels"], names["volumes"], (slice(0, 8),) * 3
    batch = names["batch"]
    assert batch["case"] == ["case_02"]  # the last batch holds the third case alone
    np.testing.assert_array_equal(batch["image"][0], volumes.intensities("case_02", box))
    # the loss, of the soft label that NumPy makes
    soft = labels.soft_label("case_02", volumes.label("case_02", box), alpha=0.1, window=box)
    log_p = names["network"](batch["image"]).log_softmax(dim=1)[0].detach().numpy()
    assert names["loss"].item() == pytest.approx(-(soft * log_p).sum(axis=0).mean(), rel=1e-5)


def test_python_in_the_page_for_code_of_ones_own_runs(computed):
    packed = ["pack", "data/geols/labels.zarr", "-o", "organs.zarr.zip"]
    assert CliRunner().invoke(store_cli.store, packed).exit_code == 0
    names = run_python("docs/reading.md", leave_out="torchio")
    labels, volumes = LabelStore.open("data/geols/labels.zarr"), VolumeStore.open("data/geols/volumes.zarr")
    maps = labels.class_maps("case_02")
    soft = labels.soft_label("case_02", volumes.label("case_02"), alpha=0.1)
    np.testing.assert_array_equal(names["soft"], soft)
    np.testing.assert_array_equal(names["same"], soft)
    np.testing.assert_array_equal(names["window"], soft[:, 2:10, 0:8, 4:12])
    np.testing.assert_allclose(names["soft_BCZYX"][0].numpy(), soft, atol=1e-6)
    # in memory as in the store
    np.testing.assert_array_equal(names["maps"].stored, labels.maps("case_00"))
    np.testing.assert_array_equal(
        names["on_the_fly"], labels.soft_label("case_00", volumes.label("case_00"), alpha=0.1)
    )
    # without a recipe that resamples, the image's grid is that of the maps
    np.testing.assert_allclose(names["elsewhere"], maps, atol=1e-6)
    np.testing.assert_allclose(names["g"], labels.class_maps("case_00")[1:, 2:10, 0:8, 4:12], atol=1e-6)
    np.testing.assert_array_equal(names["by_name"]["organ2"], names["g"][1])
    assert names["shape"] == (2, 12, 14, 16)
    assert names["paper"].maps.metric == "riemannian"
    assert names["flare"].spacing is not None


def test_the_loss_of_equal_logits_is_the_logarithm_of_the_number_of_classes(computed):
    names: dict[str, Any] = {}
    blocks = code_blocks("docs/reading.md", "python")
    for block in blocks[: 1 + next(i for i, block in enumerate(blocks) if "SoftCrossEntropy" in block)]:
        exec(compile(block, "docs/reading.md", "exec"), names)
    assert names["loss"].item() == pytest.approx(np.log(3), rel=1e-6)


def test_python_in_the_page_about_monai_trains_a_network(computed):
    pytest.importorskip("monai", reason="MONAI is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's, about NumPy and torch of the future
        names = run_python("docs/monai.md")
    assert Path("network.pt").exists()
    assert names["loss"].isfinite()
    assert names["batch"]["soft"].shape[1:] == (3, 8, 8, 8)
    for soft in (*names["batch"]["soft"], names["soft"]):
        np.testing.assert_allclose(soft.sum(dim=0), 1, atol=1e-5)


def test_the_example_of_monai_trains_and_validates(computed):
    pytest.importorskip("monai", reason="MONAI is not installed")
    script = f"python {ROOT}/workflows/monai_example.py data --epochs 1 --size 8 8 8 --features 4 8 --out trained.pt"
    said = run_bash(script, Path.cwd())
    assert "epoch 1 of 1: loss " in said
    assert len(re.findall(r"validation Dice of organ\d: \d\.\d", said)) == 2
    assert Path("trained.pt").exists()


def test_python_about_torchio_moves_maps_and_image_alike(computed):
    torchio = pytest.importorskip("torchio", reason="TorchIO is not installed")
    names: dict[str, Any] = {}
    blocks = code_blocks("docs/reading.md", "python")
    for block in blocks[: 1 + next(i for i, block in enumerate(blocks) if "torchio" in block)]:
        if "monai" not in block:
            exec(compile(block, "docs/reading.md", "exec"), names)
    moved = names["moved"]
    assert moved["maps"].shape == (2, 16, 14, 12)
    np.testing.assert_allclose(names["soft"].sum(dim=1), 1, atol=1e-5)
    # maps that are the image: where it goes, they go, and its noise stays its own
    volumes, case = names["volumes"], names["case"]
    subject = names["subject_of"](case)
    image = subject["image"].data.float()
    subject["maps"] = torchio.ScalarImage(tensor=image, affine=subject["maps"].affine)
    for step in names["moves"]:
        subject = step(subject)
    np.testing.assert_allclose(subject["maps"].data, subject["image"].data, atol=1e-3)
    assert not np.allclose(subject["maps"].data, image)
    noisy = names["changes"](subject)
    np.testing.assert_array_equal(noisy["maps"].data, subject["maps"].data)
    np.testing.assert_array_equal(volumes.intensities(case).transpose(0, 3, 2, 1), image)


# --- commands and flags -------------------------------------------------------------------------------------------


def test_the_commands_of_the_quickstart_run(nnunet, tmp_path):
    nnunet("data", cases=4)
    script = "\n".join(block for block in code_blocks("docs/index.md", "bash") if block.startswith("geols-"))
    script = replaced(
        script,
        {
            "--epochs 20 --features 16,32,64,128 --lr 1e-3": TINY,
            "geols-train --alpha 0.1\n": f"geols-train --alpha 0.1 {TINY}\n",
        },
    )
    run_bash(script, tmp_path)
    said = (ROOT / "docs/index.md").read_text()
    for name in ("labels.zarr", "volumes.zarr", "plan.json", "state.jsonl", "failures.jsonl"):
        assert (tmp_path / "data/geols" / name).exists()
        assert name in said
    assert (tmp_path / "runs/labels-geols-0.1/best.pt").exists()
    assert (tmp_path / "predictions/case_00.nii.gz").exists()
    assert (tmp_path / "soft.nii.gz").exists()


def test_the_commands_of_the_readme_run_in_their_order(nnunet, tmp_path):
    nnunet("data", cases=4)
    script = "\n".join(block for block in code_blocks("README.md", "bash") if block.startswith("geols-"))
    tiny = {f"geols-train --{what} data/": f"geols-train --{what} {TINY} data/" for what in ("alpha 0.1", "method ce")}
    run_bash(replaced(script, {**tiny, "geols-precompute": "geols-precompute --workers 0"}), tmp_path)
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 4 * 2
    assert (tmp_path / "report.html").exists()
    splits = [(tmp_path / f"runs/{name}/split.json").read_text() for name in ("labels-geols-0.1", "ce")]
    assert splits[0] == splits[1]


def test_the_notebook_is_that_of_the_tutorial_and_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "workflows")
    import demo
    from notebook import notebook

    text = (ROOT / "docs/tutorial.ipynb").read_text()
    assert text == notebook((ROOT / "docs/tutorial.md").read_text()), "run python workflows/notebook.py"
    # four scans of few voxels, and a network that the test can wait for
    monkeypatch.setattr(demo, "CASES", 4)
    monkeypatch.setattr(demo, "SPACING_MM", 8.0)
    (tmp_path / "workflows").symlink_to(ROOT / "workflows")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if source.startswith("!"):
            for line in source.replace("\\\n", "").replace("!", "").splitlines():
                run_here(line.replace("--features 8,16,32 --window 64 64 64", "--features 4,8 --window 8 8 8"))
        elif cell["cell_type"] == "code":
            exec(compile(source, "docs/tutorial.ipynb", "exec"), names)
    said = capsys.readouterr().out
    assert "dataset.json imagesTr labelsTr" in said
    assert re.search(r"white matter: Dice 0\.\d{3}", said)
    np.testing.assert_allclose(names["soft"].sum(axis=0), 1, atol=1e-6)
    for name in ("soft-label.png", "report.html", "run/best.pt", "predictions/brain_03.nii.gz", "results.csv"):
        assert (tmp_path / "tutorial" / name).exists()


def run_here(line: str) -> None:
    """Run one of our commands, as a shell would, in this process."""
    name, *arguments = shlex.split(line)
    short = {
        "geols-precompute": ["--workers", "0"],
        "geols-train": ["--device", "cpu", "--epochs", "1", "--split", "2,1,1", "--workers", "0"],
    }
    result = CliRunner().invoke(commands()[name], [*arguments, *short.get(name, [])])
    assert result.exit_code == 0, result.output


def test_the_story_of_the_sharing_document(nnunet, tmp_path):
    nnunet("data", cases=4)
    blocks = [block for block in code_blocks("docs/sharing.md", "bash") if not block.startswith("pip ")]
    (published,) = re.findall(r"--digest (\w+)", "\n".join(blocks))
    with nginx(tmp_path / "public") as server:
        script = replaced(
            "\n".join(blocks),
            {
                "https://www.lab-a.example/maps": server.url,
                # lab B has no stores yet
                published: "$(sha256sum < data/geols/labels.zarr/manifest.json | cut -c1-64) && rm -r data/geols",
                "geols-train": f"geols-train {TINY}",
                # the quickstart starts workers
                "geols-precompute": "geols-precompute --workers 0",
            },
        )
        run_bash(script, tmp_path)


def test_the_signature_in_the_sharing_document(tmp_path):
    if shutil.which("model_signing") is None:
        pytest.skip("model_signing is not installed")
    (tmp_path / "public").mkdir()
    (tmp_path / "public/organs.zarr.zip").write_bytes(b"a store")
    (block,) = code_blocks("docs/sharing.md", "shell")
    assert "Verification succeeded" in run_bash(block, tmp_path)
    (tmp_path / "public/organs.zarr.zip").write_bytes(b"another")
    done = subprocess.run(["bash", "-c", block.splitlines()[-1]], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1


def commands() -> dict[str, click.Command]:
    """Every command by its name."""
    named: dict[str, click.Command] = {"geols-precompute": cli.precompute, "geols-store": store_cli.store}
    named |= {f"geols-store {name}": command for name, command in store_cli.store.commands.items()}
    named |= {"geols-train": train_cli.train, "geols-predict": train_cli.predict}
    return named | {"geols-evaluate": cli_evaluate.evaluate}


def flags_of(command: click.Command) -> set[str]:
    context = click.Context(command)
    return {flag for p in command.get_params(context) for flag in (*p.opts, *p.secondary_opts) if flag.startswith("-")}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_flag_in_a_document_exists(document):
    text = (ROOT / document).read_text()
    known = {flag for command in commands().values() for flag in flags_of(command)}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= known | FOREIGN
    lines = [line for block in code_blocks(document, "bash") for line in block.replace("\\\n", "").splitlines()]
    for line in [*lines, *re.findall(r"`(geols-[^`]+)`", text)]:
        words = shlex.split(line, comments=True)
        if not words or not words[0].startswith("geols-"):
            continue
        command = commands().get(" ".join(words[:2])) or commands()[words[0]]
        assert {word for word in words if word.startswith("-")} <= flags_of(command), line


# --- formats ------------------------------------------------------------------------------------------------------


def test_the_array_metadata_in_the_format_document():
    block = next(b for b in code_blocks("docs/store-format.md", "json") if "chunk_grid" in b)
    assert json.loads(block) == array_metadata(MAPS, (4, 112, 160, 208))


def test_the_recipe_in_the_method_document(tmp_path):
    (block,) = code_blocks("docs/method.md", "toml")
    (tmp_path / "r.toml").write_text(block)
    recipe = load_recipe(str(tmp_path / "r.toml")).resolve(modalities=())
    assert recipe.maps.seeds == "random-5"
    assert recipe.classes.ignore == 255

"""What training costs on a GPU, in ten minutes: each row is written as soon as it is there, the most telling first.

    python workflows/benchmarks/gpu.py --make exam.npz          # where the data and SimpleITK are: one real exam
    python workflows/benchmarks/gpu.py exam.npz -o gpu.md       # where the GPU is: needs torch and this package
    python workflows/benchmarks/gpu.py --small                  # balls of noise and a small network, on a CPU

The stores are made on the spot from the exam: image int16 [modality,z,y,x], label and maps uint8, spacing. A row that
fails says so, and the next one is tried.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from trainers import epochs_in_turn, make_trainer, timed_epoch

from geols_precompute.data.geometry import Geometry
from geols_precompute.digests import sha256_hex
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.parameters import MapParameters, Preprocessing, ResolvedRecipe, TrainingHints
from geols_precompute.store.layout import root_metadata
from geols_precompute.store.writer import commit_case, create_store, write_manifest
from geols_train.config import TrainConfig
from geols_train.device import autocast
from geols_train.loss import fused_cross_entropy, soft_cross_entropy
from geols_train.targets import Mix
from geols_train.training import Trainer
from geols_train.unet import UNet3D

STEPS, KERNELS = 20, 15
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the stores are, what is trained on them, and how often epochs are repeated."""

    folder: Path
    config: TrainConfig
    arrays: Arrays
    repeats: int

    @property
    def device(self) -> torch.device:
        """Of the training."""
        return torch.device(self.config.device)

    def trainer(self, name: str, **changes: Any) -> Trainer:
        """Return a trainer in a folder of that name."""
        return make_trainer(replace(self.config, **changes), self.folder / name)

    def wait(self) -> None:
        """Wait until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure training on a GPU; see the top of this file.")
    parser.add_argument("exam", nargs="?", type=Path, help="an .npz that --make wrote (default: balls of noise)")
    parser.add_argument("-o", "--out", type=Path, help="also append the rows to this file")
    parser.add_argument("--make", type=Path, help="write the exam there, and measure nothing")
    parser.add_argument("--small", action="store_true", help="a small network and small crops on a CPU")
    parser.add_argument("--repeats", type=int, default=3, help="epochs of each kind (default 3)")
    arguments = parser.parse_args()
    if arguments.make:
        make_exam(arguments.make)
        return

    def write(line: str) -> None:
        print(line, flush=True)
        if arguments.out:
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    if arguments.small:
        torch.set_num_threads(1)  # threads only wait for each other there
    with tempfile.TemporaryDirectory() as name:
        shape = (16, 24, 24) if arguments.small else (128, 192, 192)
        arrays = dict(np.load(arguments.exam)) if arguments.exam else balls(shape)
        config = make_stores(Path(name), arrays, small=arguments.small)
        measure(Bench(folder=Path(name), config=config, arrays=arrays, repeats=arguments.repeats), write)


def measure(bench: Bench, write: Callable[[str], None]) -> None:
    """Write every row as soon as it is there."""
    for row in ROWS:
        begin = time.perf_counter()
        try:
            found = row(bench)
        except Exception as error:  # the rows after it can still be measured
            found = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        write(f"- {row.__name__.replace('_', ' ')}: {found} [{time.perf_counter() - begin:.0f} s]")


# --- the exam ---------------------------------------------------------------------------------------------------------


def make_exam(path: Path) -> None:
    """Write the exam of `inputs.load_mr` with its maps."""
    from inputs import DATA, load_mr

    from geols_precompute import compute_maps
    from geols_precompute.data.prepare import to_int16

    case = load_mr(DATA, quick=False)
    names = {0: "background"} | {value: f"class {value}" for value in range(1, case.classes + 1)}
    found = compute_maps(case.images, case.labels.astype(np.int32), case.spacing, classes=names)
    stored, _, _ = to_int16(case.images)
    np.savez_compressed(path, image=stored, label=case.labels, maps=found.stored, spacing=case.spacing)


def balls(shape: tuple[int, int, int]) -> Arrays:
    """Return an exam of noise with three balls, and maps that fall off with the distance to each."""
    rng, grid = np.random.default_rng(0), np.indices(shape).astype(np.float32)
    label, maps = np.zeros(shape, np.uint8), []
    for index in range(1, 4):
        centre = np.array([0.5, index / 4, 0.5]) * shape
        apart = np.sqrt(((grid.transpose(1, 2, 3, 0) - centre) ** 2).sum(axis=-1))
        label[apart <= 0.2 * min(shape)] = index
        maps.append(np.rint(255 * np.exp(-apart / min(shape))).astype(np.uint8))
    image = (100 * label + rng.normal(0, 20, (4, *shape))).astype(np.int16)
    return {"image": image, "label": label, "maps": np.stack(maps), "spacing": np.ones(3)}


def make_stores(folder: Path, arrays: Arrays, *, small: bool) -> TrainConfig:
    """Write stores whose cases all are this exam; return the settings that train on them."""
    cases, shape = (6, arrays["label"].shape) if small else (20, arrays["label"].shape)
    names = {value: f"class {value}" for value in range(1, len(arrays["maps"]) + 1)}
    recipe = ResolvedRecipe(
        classes=ClassTable.from_names(names),
        preprocessing=Preprocessing(modalities=tuple(f"m{i}" for i in range(len(arrays["image"])))),
        maps=MapParameters(),
        hints=TrainingHints(),
    )
    volumes, labels, ones = folder / "volumes.zarr", folder / "labels.zarr", [1.0] * len(arrays["image"])
    create_store(volumes, root_metadata("geols-volumes", recipe.preprocessing_json(), recipe.classes, {"training": {}}))
    create_store(labels, root_metadata("geols-labels", recipe.as_json(), recipe.classes, {}))
    along_x, along_y, along_z = map(float, arrays["spacing"][::-1])
    geometry = Geometry(
        size=shape[::-1],
        spacing=(along_x, along_y, along_z),
        origin=(0.0, 0.0, 0.0),
        direction=tuple(np.eye(3).ravel()),
    )
    for number in range(cases):
        case, digest = f"case_{number:02d}", sha256_hex(str(number).encode())
        source = {"image_sha256": [digest] * len(ones), "label_sha256": digest, "geometry_sha256": digest}
        document = {
            "source": source,
            "source_geometry": geometry.as_json(),
            "image": {"scale": ones, "offset": [0.0] * len(ones)},
        }
        commit_case(volumes, case, {"image": arrays["image"], "label": arrays["label"]}, geometry, document)
        present = sorted(int(value) for value in set(np.unique(arrays["label"])) & set(names))
        document = {"source": source, "present": present, "channels": list(names), "seeds": {}, "stats": {}}
        commit_case(labels, case, {"maps": arrays["maps"]}, geometry, document)
    write_manifest(volumes)
    write_manifest(labels)
    settings: dict[str, Any] = {"features": (4, 8), "device": "cpu", "batch_size": 2} if small else {"device": "cuda"}
    z, y, x = shape
    return TrainConfig(
        data=folder,
        split=f"{cases - 2},2,0",
        augment="flips",
        crop=(z, y, x),
        epochs=1000,
        workers=0 if small else None,
        **settings,
    )


# --- rows, in the order in which they are written ---------------------------------------------------------------------


def versions(bench: Bench) -> str:
    """Torch, CUDA, cuDNN, Python, and the card."""
    card = torch.cuda.get_device_name() if bench.device.type == "cuda" else platform.processor() or "CPU"
    # cuDNN's own function has no types
    version: Any = torch.backends.cudnn.version
    cudnn = version() if bench.device.type == "cuda" else None
    python = platform.python_version()
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}, Python {python}, {card}"


def against_float64(bench: Bench) -> str:
    """Largest differences of the fused loss's gradient, and of a convolution's, from float64 on the CPU."""
    generator, device = torch.Generator().manual_seed(0), bench.device
    logits = torch.randn(2, 4, 16, 24, 24, generator=generator)
    label = torch.randint(0, 4, (2, 16, 24, 24), generator=generator).to(torch.uint8)
    maps = torch.randint(0, 256, (2, 3, 16, 24, 24), generator=generator).to(torch.uint8)
    present, mix = torch.ones(2, 4, dtype=torch.bool), Mix(method="geols", channels=(1, 2, 3))
    ours = logits.to(device).detach().clone().requires_grad_()
    fused_cross_entropy(ours, label.to(device), maps.to(device), present.to(device), mix=mix).backward()  # type: ignore[no-untyped-call]
    exact = logits.double().requires_grad_()
    log_p = functional.log_softmax(exact, dim=1)
    torch.autograd.backward(-(mix.soft_label(label, maps, present, 4).double() * log_p).sum(dim=1).mean())
    plain = logits.clone().requires_grad_()
    soft_cross_entropy(plain, mix.soft_label(label, maps, present, 4), label).backward()  # type: ignore[no-untyped-call]
    convolution = nn.Conv3d(4, 8, 3, padding=1)
    reference = nn.Conv3d(4, 8, 3, padding=1).double()
    reference.load_state_dict(convolution.state_dict())
    convolution.to(device)(logits.to(device)).square().mean().backward()
    reference(logits.double()).square().mean().backward()
    of_weights = (convolution.weight.grad, reference.weight.grad)
    pairs = ((ours.grad, exact.grad), (plain.grad, exact.grad), of_weights)
    relative = [
        float((a.cpu().double() - b).abs().max() / b.abs().max()) for a, b in pairs if a is not None and b is not None
    ]
    return f"fused loss {relative[0]:.1e}, plain loss on the CPU {relative[1]:.1e}, convolution {relative[2]:.1e}"


def eager_steps(bench: Bench) -> str:
    """Milliseconds of a step, the median of 20, and peak memory."""
    trainer = bench.trainer("eager")
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = steps(bench, trainer)
    peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if bench.device.type == "cuda" else ""
    return f"{1e3 * statistics.median(seconds):.0f} ms in {trainer.precision}{peak}"


def cudnn_benchmark(bench: Bench) -> str:
    """Milliseconds of a step without and with cuDNN's search."""
    found, before = {}, torch.backends.cudnn.benchmark
    for on in (False, True):
        trainer = bench.trainer(f"cudnn-{on}")
        torch.backends.cudnn.benchmark = on
        found["on" if on else "off"] = statistics.median(steps(bench, trainer))
    torch.backends.cudnn.benchmark = before
    return ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in found.items())


def compiled(bench: Bench) -> str:
    """Seconds to compile one shape, milliseconds of a pass, eager and compiled, and how the logits differ."""
    network = UNet3D(len(bench.arrays["image"]), len(bench.arrays["maps"]) + 1, bench.config.features).to(bench.device)
    image = torch.randn(1, len(bench.arrays["image"]), *bench.arrays["label"].shape, device=bench.device)
    faster: Any = torch.compile(network, dynamic=False)
    found, seconds = [], []
    with torch.no_grad(), autocast(bench.device, bench.config.precision):
        for forward in (network, faster):
            times = []
            for _ in range(4):
                begin = time.perf_counter()
                logits = forward(image)
                bench.wait()
                times.append(time.perf_counter() - begin)
            found.append(logits.float())
            seconds.append((times[0], statistics.median(times[1:])))
    apart = float((found[0] - found[1]).abs().max())
    return (
        f"{seconds[1][0]:.1f} s to compile, {1e3 * seconds[0][1]:.0f} ms eager, {1e3 * seconds[1][1]:.0f} ms compiled, "
        f"logits differ by {apart:.1e}"
    )


def epoch_ratio(bench: Bench) -> str:
    """Seconds of an epoch of GeoLS over those of torch's cross-entropy without maps, and what waits for data."""
    rows = []
    methods, caches = ("geols", "ce"), ("device", "none")
    for cache in caches:
        trainers = {name: bench.trainer(f"{name}-{cache}", method=name, cache=cache) for name in methods}
        seconds = epochs_in_turn({name: partial(timed_epoch, t) for name, t in trainers.items()}, bench.repeats)
        waiting = bench.trainer(f"waiting-{cache}", cache=cache, profile=True)
        timed_epoch(waiting)
        ratio = statistics.median(np.divide(seconds["geols"], seconds["ce"]))
        rows.append(f"cache {cache} {ratio:.3f}, waiting for data {waiting.timer.share('data'):.1%}")
    return "; ".join(rows)


def validation(bench: Bench) -> str:
    """Seconds per case of validation, and of training."""
    trainer = bench.trainer("validation")
    list(trainer.evaluator.validate(trainer.network, trainer.validation_cases[:1], None))
    begin = time.perf_counter()
    list(trainer.evaluator.validate(trainer.network, trainer.validation_cases, None))
    each = (time.perf_counter() - begin) / len(trainer.validation_cases)
    timed_epoch(trainer)
    training = timed_epoch(trainer) / len(trainer.batches.cases)
    return f"{each:.2f} s a case, training {training:.2f} s: {each / training:.2f}"


def longest_kernels(bench: Bench) -> str:
    """The kernels that take longest in an epoch."""
    trainer = bench.trainer("kernels", cache="device")
    timed_epoch(trainer)
    on_gpu = bench.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        timed_epoch(trainer)
        bench.wait()
    name = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events)
    return "; ".join(f"{event.key[:60]} {getattr(event, name) / total:.1%}" for event in events[:KERNELS])


def resume_to_the_same_bits(bench: Bench) -> str:
    """Whether two epochs, and one with one more after it, end with the same weights."""
    whole = bench.trainer("whole", epochs=2)
    whole.train()
    bench.trainer("halves", epochs=1).train()
    rest = bench.trainer("halves", epochs=2)
    rest.restore()
    rest.train()
    weights = zip(whole.network.parameters(), rest.network.parameters(), strict=True)
    apart = max(float((a - b).detach().abs().max()) for a, b in weights)
    return "yes" if apart == 0 else f"no, weights differ by up to {apart:.1e}"


def ddp_with_one_process(bench: Bench) -> str:
    """Milliseconds of a step in DistributedDataParallel, in a group of one."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29577")
    distributed.init_process_group("nccl" if bench.device.type == "cuda" else "gloo", rank=0, world_size=1)
    try:
        trainer = bench.trainer("ddp")
        trainer.forward = nn.parallel.DistributedDataParallel(trainer.network)
        return f"{1e3 * statistics.median(steps(bench, trainer)):.0f} ms"
    finally:
        distributed.destroy_process_group()


def monai(bench: Bench) -> str:
    """Epochs of ours over those of a plain MONAI loop: cases in memory, flips on the CPU, the same network."""
    from monai.data import DataLoader, Dataset
    from monai.transforms import Compose, EnsureTyped, NormalizeIntensityd, RandFlipd

    ours, config = bench.trainer("ours", cache="device"), bench.config
    case = {"image": bench.arrays["image"].astype(np.float32), "label": bench.arrays["label"][None]}
    flips = [RandFlipd(keys=["image", "label"], prob=0.5, spatial_axis=axis) for axis in range(3)]
    transform = Compose([NormalizeIntensityd("image", channel_wise=True), *flips, EnsureTyped(["image", "label"])])
    workers = 0 if bench.device.type == "cpu" else 4
    data = Dataset([case] * len(ours.batches.cases), transform)
    loader = DataLoader(data, batch_size=config.batch_size, num_workers=workers, persistent_workers=workers > 0)
    network = UNet3D(len(bench.arrays["image"]), len(bench.arrays["maps"]) + 1, config.features).to(bench.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)

    def epoch() -> float:
        begin = time.perf_counter()
        for batch in loader:
            optimizer.zero_grad(set_to_none=True)
            with autocast(bench.device, config.precision):
                logits = network(batch["image"].as_tensor().to(bench.device))
            label = batch["label"].as_tensor().to(bench.device)[:, 0].long()
            functional.cross_entropy(logits.float(), label).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        bench.wait()
        return time.perf_counter() - begin

    seconds = epochs_in_turn({"ours": partial(timed_epoch, ours), "MONAI": epoch}, bench.repeats)
    return f"{statistics.median(np.divide(seconds['MONAI'], seconds['ours'])):.2f} × the time of ours"


ROWS: tuple[Callable[[Bench], str], ...] = (
    versions, against_float64, eager_steps, cudnn_benchmark, compiled, epoch_ratio, validation, longest_kernels,
    resume_to_the_same_bits, ddp_with_one_process, monai,
)  # fmt: skip


def steps(bench: Bench, trainer: Trainer) -> list[float]:
    """Return the seconds of 20 steps on one batch, after three that warm up."""
    stored = next(iter(trainer.loader)).to(bench.device)
    trainer.network.train()
    seconds = []
    for _ in range(STEPS + 3):
        begin = time.perf_counter()
        trainer.train_step(stored)
        bench.wait()
        seconds.append(time.perf_counter() - begin)
    return seconds[3:]


if __name__ == "__main__":
    main()

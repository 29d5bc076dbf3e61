"""The loop: methods, resume to the bit, stops, and what it says when it cannot go on."""

from __future__ import annotations

import itertools
import math
import signal
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from train_fixtures import losses, make_fixture_reader, make_stores, trainers, weights

from geols_precompute.signals import Stopped, StopRequest
from geols_train import training
from geols_train.checkpoint import load_checkpoint, save_checkpoint
from geols_train.device import OutOfMemoryError, World
from geols_train.log import RunLog, read_log
from geols_train.training import TrainingError, Validation


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("stores"), cases=6, vary=True, absent=(2,))


@pytest.fixture(scope="module")
def reader(out):
    return make_fixture_reader(out)


@pytest.fixture
def trainer(out, reader, tmp_path):
    return trainers(out, reader, tmp_path)


def test_alpha_zero_and_ce_are_the_same_training(trainer):
    runs = [trainer(method="geols", alpha=0.0), trainer(method="ce"), trainer(method="geols", alpha=0.3)]
    for run in runs:
        run.train()
    geols, ce, other = map(losses, runs)
    assert len(geols) == 4
    assert geols == pytest.approx(ce, abs=1e-6)
    assert torch.equal(weights(runs[0]), weights(runs[1]))
    assert other != pytest.approx(ce, abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "ls"},
        {"method": "fl"},
        {"method": "svls"},
        {"method": "gauss", "width": 1.5},
        {"method": "sdf", "width": 1.5, "dice_weight": 1.0},
        {"method": "dilate", "width": 1.5},
        {"method": "bls", "width": 1.5, "cache": "device"},
        {"method": "nuls"},
        {"method": "nacl"},
        {"method": "mbls", "margin": 3.0, "penalty": 0.5},
        {"method": "geols", "normalize": "none"},
        {"method": "geols", "dice_weight": 1.0},
        {"method": "ce", "augment": "none", "epochs": 12},
        {"method": "geols", "window": (6, 6, 6), "crop": None, "cache": "ram", "augment": "flips", "flip_axes": "x"},
    ],
)
def test_every_method_learns(trainer, settings):
    run = trainer(**{"epochs": 6, **settings})
    state = run.train()
    found = losses(run)
    assert sum(found[-3:]) < sum(found[:3])
    assert 0 <= state.best_dice <= 1
    assert 1 <= state.best_epoch <= run.config.epochs
    assert (run.folder / "best.pt").exists()


def test_accumulated_gradients_are_those_of_a_larger_batch(trainer):
    settings = {"epochs": 2, "augment": "none", "split": "5,1,0", "crop": (8, 8, 8), "dice_weight": 0.0}
    small = trainer(batch_size=1, accumulate=2, **settings)
    large = trainer(batch_size=2, **settings)
    assert (len(small.batches), len(large.batches)) == (5, 3)
    for run in (small, large):
        run.train()
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-5)
    # two steps of two batches, and one of the batch that is left
    found = losses(small)
    means = [(found[0] + found[1]) / 2, (found[2] + found[3]) / 2, found[4]]
    assert means == pytest.approx(losses(large)[:3], rel=1e-4)


def test_a_run_that_accumulates_stops_between_steps_of_the_optimiser_and_resumes_to_the_same_bits(trainer, monkeypatch):
    settings = {"batch_size": 1, "accumulate": 2, "epochs": 2, "split": "5,1,0"}
    whole = trainer(**settings)
    whole.train()
    stopped = trainer(**settings)
    folder, places = stopped.folder, []

    class AlwaysRequested(StopRequest):
        @property
        def requested(self):
            places.append(len(stopped.state.losses))
            return True

    monkeypatch.setattr(training, "stop_between_steps", lambda: nullcontext(AlwaysRequested()))
    with pytest.raises(Stopped):
        stopped.train()
    assert places == [2]
    monkeypatch.undo()
    resumed = trainer(folder=folder, **settings)
    resumed.restore()
    resumed.train()
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("method", ["geols", "fl"])
def test_a_stopped_run_resumes_to_the_same_bits(trainer, method, monkeypatch):
    settings = {
        "method": method,
        "epochs": 3,
        "augment": "paper",
        "schedule": "poly",
        "window": (6, 8, 6),
        "crop": None,
    }
    whole = trainer(**settings)
    whole.train()
    parts = trainer(**settings)
    folder, stops = parts.folder, 0
    for stop_after in (1, 1, 2):  # in the middle of an epoch, and between two
        run, steps = trainer(folder, **settings), itertools.count(1)
        run.restore()
        step = run.train_step

        def stopping(batch, step=step, steps=steps, stop_after=stop_after):
            result = step(batch)
            if next(steps) == stop_after:
                signal.raise_signal(signal.SIGINT)
            return result

        monkeypatch.setattr(run, "train_step", stopping)
        with pytest.raises(Stopped):
            run.train()
        stops += stop_after
        assert len(losses(run)) == stops
    last = trainer(folder, **settings)
    last.restore()
    state = last.train()
    assert torch.equal(weights(last), weights(whole))
    assert losses(last) == losses(whole)
    assert state == whole.state
    without_time = [[{k: v for k, v in x.items() if k != "seconds"} for x in read_log(t.folder)] for t in (last, whole)]
    assert without_time[0] == without_time[1]


def test_a_signal_while_the_last_epoch_is_saved_stops_the_run(trainer, monkeypatch):
    run = trainer(epochs=1)
    save = run.save

    def interrupted(name):
        signal.raise_signal(signal.SIGTERM)
        save(name)

    monkeypatch.setattr(run, "save", interrupted)
    with pytest.raises(Stopped):
        run.train()
    monkeypatch.undo()
    again = trainer(run.folder, epochs=1)
    again.restore()
    assert again.train().epoch == 1


def test_a_stop_during_validation_is_saved_too(trainer, monkeypatch):
    whole = trainer(epochs=2)
    whole.train()
    run = trainer(epochs=2)
    predict = type(run.evaluator).predict

    def stopping(self, network, case, sample):
        signal.raise_signal(signal.SIGTERM)
        return predict(self, network, case, sample)

    with monkeypatch.context() as patch:
        patch.setattr(type(run.evaluator), "predict", stopping)
        with pytest.raises(Stopped):
            run.train()
    again = trainer(run.folder, epochs=2)
    again.restore()
    assert again.batches_done == 2
    again.train()
    assert torch.equal(weights(again), weights(whole))


def test_varied_intensities_leave_the_padding_alone_and_resume_to_the_same_numbers(trainer):
    run = trainer(intensity=True, window=(6, 20, 6), crop=None, batch_size=3, augment="none")
    plain = trainer(window=(6, 20, 6), crop=None, batch_size=3, augment="none")
    stored = next(iter(run.loader))
    changed = 0
    for step in range(8):
        run.state.epoch = step
        (varied, again), usual = (run.prepare(stored) for _ in range(2)), plain.prepare(stored)
        assert torch.equal(varied.image, again.image)
        assert (varied.image[~stored.inside_BZYX()[:, None]] == 0).all()
        assert torch.equal(varied.label, usual.label)
        assert torch.equal(varied.maps, usual.maps)
        changed += not torch.equal(varied.image, usual.image)
    assert changed > 4


def test_a_transposed_batch_does_not_compile_the_network_again(trainer, monkeypatch):
    graphs, compile_with = [], torch.compile

    def counting(network, **options):
        return compile_with(network, backend=lambda graph, inputs: graphs.append(graph) or graph.forward, **options)

    monkeypatch.setattr(torch, "compile", counting)
    settings = {"augment": "paper", "crop": (8, 10, 12), "epochs": 20, "split": "4,1,1"}
    run, plain = trainer(compile=True, **settings), trainer(**settings)
    run.train()
    plain.train()
    # the batch as it is, and three pairs of axes that change places
    assert len(graphs) == 4
    assert losses(run) == losses(plain)
    assert run.network.state_dict().keys() == plain.network.state_dict().keys()


def test_channels_last_gives_the_same_losses(trainer):
    run, plain = trainer(channels_last=True), trainer()
    images = []
    run.network.register_forward_hook(lambda module, inputs, output: images.append(inputs[0]))
    for each in (run, plain):
        each.train()
    assert all(p.is_contiguous(memory_format=torch.channels_last_3d) for p in run.network.parameters() if p.ndim == 5)
    assert images[0].is_contiguous(memory_format=torch.channels_last_3d)
    assert losses(run) == pytest.approx(losses(plain), rel=1e-3)


def test_a_loss_that_is_not_finite_names_the_cases(trainer, monkeypatch):
    run = trainer(augment="none")
    before = weights(run)
    monkeypatch.setattr(run, "objective", lambda logits, batch: logits.sum() * math.nan)
    with pytest.raises(TrainingError, match=r"nan in batch 1 \(epoch 1\); its cases are case_0\d, case_0\d\."):
        run.train()
    assert torch.equal(weights(run), before)


def test_out_of_memory_says_which_option_to_lower(trainer, monkeypatch):
    run = trainer()

    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(run, "train_step", full)
    with pytest.raises(OutOfMemoryError, match=r"lower --batch-size \(now 2; .*\), --crop or --window \(now 8 10 8\)"):
        run.train()


def test_the_schedule(trainer):
    run = trainer(schedule="poly", lr=1.0, epochs=5)
    assert run.learning_rate() == 1.0
    run.state.epoch = 4
    assert run.learning_rate() == pytest.approx(0.2**0.9)
    assert trainer(lr=0.5).learning_rate() == 0.5


def test_padded_and_ignored_voxels_teach_nothing(trainer):
    run = trainer(method="ce")
    batch = next(iter(run.loader)).normalised()
    logits = torch.randn(2, 3, *batch.image.shape[2:])
    expected = run.objective(logits, batch)
    label = batch.label.clone()
    label[:, 0] = 255
    moved = batch.with_spatial([batch.image, label, batch.maps])
    wild = torch.where(label[:, None] != 255, logits, logits * 100)
    assert torch.isfinite(run.objective(wild, moved))
    torch.testing.assert_close(run.objective(wild, moved), run.objective(logits, moved))
    assert run.objective(logits, moved) != expected


@pytest.mark.parametrize("criterion", ["dice", "regions", "loss"])
def test_the_best_epoch_is_the_best_by_the_criterion(trainer, criterion):
    run = trainer(checkpoint=criterion)
    run.spec = replace(run.spec, regions={"both": (2, 5)})
    run.evaluator = replace(run.evaluator, spec=run.spec)
    names = ("inner", "outer", "both")
    dices = [(0.5, 0.7, 0.3), (0.9, 0.1, 0.8), (0.8, 0.8, 0.1), (0.1, 0.1, 0.2)]
    by_loss = [0.9, 0.8, 0.7, 0.2]
    for dice, loss in zip(dices, by_loss, strict=True):
        run.state.losses = [0.0]
        found = Validation(structures=dict(zip(names, dice, strict=True)), loss=loss if criterion == "loss" else None)
        run.end_epoch(RunLog(run.folder, tensorboard=False, after=0, enabled=False), found, 1.0)
    best = {"dice": 3, "regions": 2, "loss": 4}[criterion]
    assert run.state.best_epoch == best
    assert run.state.best_dice == pytest.approx(np.mean(dices[best - 1][:2]))
    assert load_checkpoint(run.folder / "best.pt")[1]["progress"]["best_epoch"] == best


def test_a_checkpoint_of_before_the_choice_goes_on(trainer):
    run = trainer()
    run.train()
    spec, content = load_checkpoint(run.folder / "last.pt")
    del content["progress"]["best_score"], content["version"], content["spec"]
    save_checkpoint(run.folder / "last.pt", spec, content)
    again = trainer(run.folder)
    again.restore()
    assert again.state.best_score == again.state.best_dice == run.state.best_dice


def test_adam_takes_its_epsilon(trainer):
    run = trainer(adam_eps=1e-3)
    assert run.optimizer.param_groups[0]["eps"] == 1e-3


def test_gradients_stay_in_their_process_until_a_group_is_whole(trainer, monkeypatch):
    run = trainer(batch_size=1, accumulate=2, epochs=1)
    stayed = []

    @contextmanager
    def stay(_self, network):
        stayed.append(run.batches_done)
        yield

    monkeypatch.setattr(World, "gradients_stay", stay)
    run.train()
    assert len(run.batches) == 3
    assert stayed == [0]  # the first of the group of two; the third batch is a group of its own

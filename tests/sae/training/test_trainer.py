"""The training loop: it learns, resumes identically, reports errors and writes complete files."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import CheckpointError
from sae_lens_audio import (
    BatchTopK,
    BatchTopKConfig,
    Crosscoder,
    CrosscoderConfig,
    Gated,
    GatedConfig,
    JumpReLU,
    JumpReLUConfig,
    Matryoshka,
    MatryoshkaConfig,
    Standard,
    StandardConfig,
    Tied,
    TiedConfig,
    TopK,
    TopKConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
    load_sae,
)
from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training import Trainer, read_metrics
from sae_lens_audio.training.checkpoint import CHECKPOINT
from tests.sae.training.sources import D, F, config, fit_until_interrupted, mixtures, trainer

EVERY = {
    "topk": lambda: TopK(TopKConfig(D, F, k=3)),
    "batchtopk": lambda: BatchTopK(BatchTopKConfig(D, F, k=3)),
    "matryoshka": lambda: Matryoshka(MatryoshkaConfig(D, F, k=3, widths=(10, F))),
    "standard": lambda: Standard(StandardConfig(D, F, l1_coefficient=0.1)),
    "tied": lambda: Tied(TiedConfig(D, F, reconstruction_alpha=100.0)),
    "jumprelu": lambda: JumpReLU(JumpReLUConfig(D, F, l0_coefficient=0.01, bandwidth=0.1)),
    "gated": lambda: Gated(GatedConfig(D, F, l1_coefficient=0.1)),
}


def explained(sae, x) -> float:
    with torch.no_grad():
        return 1 - ((sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item()


@pytest.mark.parametrize("name", EVERY)
def test_every_architecture_learns_from_raw_activations(name: str) -> None:
    scale = "none" if name == "tied" else "unit"
    run = trainer(sae=EVERY[name](), steps=150, warmup_steps=5, decay_steps=30, scale=scale)
    before = explained(trainer(sae=EVERY[name](), steps=150).sae.eval(), mixtures(seed=7)) if "batch" not in name and (
        name != "matryoshka") else -math.inf  # fmt: skip
    sae = run.fit(progress=False)
    after = explained(sae, mixtures(seed=7))
    assert after > max(0.75, before + 0.02), (before, after)
    if sae.unit_norm_decoder:
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(F), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"tied"}))
def test_initial_reconstructions_have_the_scale_of_the_activations(name: str) -> None:
    """With eight ReLU features per dimension, reconstructions start four times too large without the fit."""

    def first(**changes) -> float:
        wide = type(EVERY[name]())(dataclasses.replace(EVERY[name]().config, d_sae=8 * D, **widths))
        with trainer(sae=wide, **changes) as run:
            return run._metrics(run.step())["explained_variance"]

    widths = {"widths": (10, 8 * D)} if name == "matryoshka" else {}
    fitted = first()
    assert fitted > 0 and fitted >= first(fit_encoder=False) - 1e-6


def test_transcoders_and_crosscoders_learn_from_several_points() -> None:
    x = mixtures()
    y = 4 * x @ torch.randn(D, 7, generator=torch.Generator().manual_seed(3)) - 1
    sae = TopKTranscoder(TopKTranscoderConfig(D, F, d_out=7, k=5, skip=True))
    trained = Trainer(sae, TensorActivations({"in": x, "out": y}), config(steps=150)).fit(progress=False)
    with torch.no_grad():
        assert (trained(x) - y).square().sum() < 0.1 * (y - y.mean(0)).square().sum()
    both = Crosscoder(CrosscoderConfig(D, F, n_blocks=2, l1_coefficient=0.01))
    trained = Trainer(both, TensorActivations({"one": x, "two": 20 * x}), config(steps=150)).fit(progress=False)
    stacked = torch.stack([x, 20 * x], 1)
    with torch.no_grad():
        error = (trained(stacked) - stacked).square().sum((0, 2))
    assert (error < 0.15 * (stacked - stacked.mean(0)).square().sum((0, 2))).all(), "both points count alike"


def test_scaling_the_activations_gives_the_same_sae() -> None:
    """Scaling the activations must not change the SAE."""
    scaled = Trainer(TopK(TopKConfig(D, F, k=3)), TensorActivations(mixtures()), config()).fit(progress=False)
    ten = Trainer(TopK(TopKConfig(D, F, k=3)), TensorActivations(16 * mixtures()), config()).fit(progress=False)
    x = mixtures(50, seed=5)
    torch.testing.assert_close(16 * scaled.encode(x), ten.encode(16 * x), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(16 * scaled(x), ten(16 * x), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("name", ["topk", "matryoshka", "gated"])
def test_resumed_equals_uninterrupted_bit_for_bit(name: str, tmp_path: Path) -> None:
    changes = {"steps": 40, "warmup_steps": 5, "decay_steps": 10, "dead_after": 200, "resample_every": 8}
    whole = trainer(sae=EVERY[name](), **changes).fit(progress=False)
    for stop in (1, 8, 9, 33):
        with trainer(tmp_path / f"{stop}", EVERY[name](), **changes) as first:
            for _ in range(stop):
                first.step()
            first.save()
            first.step()  # done, but lost
        second = trainer(tmp_path / f"{stop}", EVERY[name](), **changes)
        assert second.number == stop
        resumed = second.fit(progress=False)
        for key, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key]), (stop, key)


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL at a random moment, in a separate process."""
    script = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from tests.sae.training.sources import trainer\n"
        "trainer(Path(sys.argv[1]), steps=400).fit(progress=False, checkpoint_s=0)\n"
    )

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = subprocess.Popen([sys.executable, "-c", script, str(killed)])
    while not (killed / CHECKPOINT).exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was not done yet"
    assert not (killed / "sae").exists()
    for folder in (killed, whole):
        trainer(folder, steps=400).fit(progress=False)
    for name in ("sae_weights.safetensors", "cfg.json", "sparsity.safetensors"):
        assert (killed / "sae" / name).read_bytes() == (whole / "sae" / name).read_bytes()
    lines = [{k: v for k, v in line.items() if k != "steps_per_s"} for line in read_metrics(killed)]
    assert lines == [{k: v for k, v in line.items() if k != "steps_per_s"} for line in read_metrics(whole)]
    assert not list(killed.glob(".*")), "no temporary files"


def test_files_of_a_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, steps=40)
    trained = run.fit(progress=False)
    loaded = load_sae(tmp_path / "sae")
    x = mixtures(20, seed=4)
    torch.testing.assert_close(loaded.sae.encode(x), trained.encode(x))
    assert loaded.log_sparsity is not None
    rates = 10**loaded.log_sparsity
    assert rates.sum().item() == pytest.approx(3, abs=0.1), "k = 3 features fire on each row"
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(5, 41, 5))
    assert (
        lines[-1]["l0"] == pytest.approx(3, abs=0.1)
        and lines[-1]["explained_variance"] > lines[0]["explained_variance"]
    )
    again = trainer(tmp_path, steps=40)
    assert again.number == 40
    torch.testing.assert_close(again.fit(progress=False).W_enc, trained.W_enc, rtol=0, atol=0)


def test_an_interrupted_run_writes_a_checkpoint_first(tmp_path: Path) -> None:
    fit_until_interrupted(trainer(tmp_path), 7)
    assert trainer(tmp_path).number == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_step_takes_effect_after_it(number: signal.Signals, tmp_path: Path) -> None:
    whole = trainer().fit(progress=False)
    run, handlers = trainer(tmp_path), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    project = run.sae.project_weights_

    def signalled() -> None:  # the weights have moved, nothing is counted yet
        if run.number == 6:
            os.kill(os.getpid(), number)
        project()

    run.sae.project_weights_ = signalled  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run.fit(progress=False)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    again = trainer(tmp_path)
    assert again.number == 7
    for a, b in zip(again.fit(progress=False).parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_error_within_a_step_keeps_the_earlier_checkpoint(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.step()
    run.save()
    saved = (tmp_path / CHECKPOINT).read_bytes()

    def broken() -> None:
        raise MemoryError

    run.sae.project_weights_ = broken  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        run.fit(progress=False)
    assert (tmp_path / CHECKPOINT).read_bytes() == saved


def test_a_folder_with_another_run_is_refused_with_the_differences(tmp_path: Path) -> None:
    trainer(tmp_path, steps=4).fit(progress=False)
    for changes, what in (({"lr": 1e-3}, "training.lr was 0.01, now 0.001"), ({"seed": 4}, "training.seed")):
        with pytest.raises(TrainingError, match=what):
            trainer(tmp_path, **({"steps": 4} | changes))
    with pytest.raises(TrainingError, match=r"sae\.k was 3, now 2"):
        trainer(tmp_path, TopK(TopKConfig(D, F, k=2)), steps=4)
    with pytest.raises(TrainingError, match="start was"):
        trainer(tmp_path, TopK(TopKConfig(D, F, k=3), seed=8), steps=4)
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / CHECKPOINT).read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"checkpoint.safetensors cannot be read .*delete it"):
        trainer(tmp_path, steps=4)


def test_an_activation_that_is_not_finite_is_named_and_the_weights_are_kept(tmp_path: Path) -> None:
    x = mixtures()
    blocks = TensorActivations(x, recording=torch.arange(1200).int() // 100, position=torch.arange(1200).int() % 100,
                          ids=[f"clip-{k}" for k in range(12)])  # fmt: skip
    x[537] = torch.nan  # after the source was checked, as a damaged file would be
    run = Trainer(TopK(TopKConfig(D, F, k=3)), blocks, config(scale="none", center=False), tmp_path)
    with pytest.raises(TrainingError, match=r"'clip-5' at position 37") as caught:
        run.fit(progress=False)
    assert "step" in str(caught.value) and "chunk 0" in str(caught.value)
    assert all(p.isfinite().all() for p in run.sae.parameters())
    assert run.number > 0 and (tmp_path / CHECKPOINT).exists()


def test_a_loss_that_is_not_finite_on_finite_activations_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer()
    run.step()
    with torch.no_grad():
        run.sae.b_dec.fill_(1e30)
    with pytest.raises(TrainingError, match=r"step 2 \(epoch 0.*not finite.*though the activations are.*lower lr"):
        run.step()
    run.close()


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path)
    run.step()
    run.save()
    saved = (tmp_path / CHECKPOINT).read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    run.step()
    with pytest.raises(TrainingError, match=r"disk is full.*checkpoint.safetensors.*the earlier one is intact"):
        run.save()
    run.close()
    assert (tmp_path / CHECKPOINT).read_bytes() == saved and len(list(tmp_path.iterdir())) == 1


@given(st.sampled_from([1, 2, 4]), st.sampled_from(["topk", "standard"]))
def test_parts_of_a_batch_add_up_to_it(parts: int, name: str) -> None:
    whole, parted = trainer(sae=EVERY[name](), steps=4), trainer(sae=EVERY[name](), steps=4, accumulate=parts)
    for _ in range(3):
        a, b = whole.step(), parted.step()
        torch.testing.assert_close(a.output.total, b.output.total)
        assert torch.equal(a.output.active, b.output.active)
    for p, q in zip(whole.sae.parameters(), parted.sae.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-4)
    whole.close(), parted.close()


def test_training_with_bfloat16_products() -> None:
    trained = trainer(steps=120, precision="bfloat16").fit(progress=False)
    assert trained.dtype == torch.float32 and explained(trained, mixtures(seed=7)) > 0.75


@pytest.mark.parametrize("name", EVERY)
def test_training_with_float16_products(name: str, tmp_path: Path) -> None:
    with trainer(sae=EVERY[name](), steps=6, precision="float16", folder=tmp_path) as run:
        start = {n: p.detach().clone() for n, p in run.sae.named_parameters()}
        steps = [run.step() for _ in range(3)]
        assert all(bool(step.output.total.isfinite()) for step in steps)
        assert any(not torch.equal(p, start[n]) for n, p in run.sae.named_parameters())
        assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in run.sae.parameters())
        run.save()
        scale = run._half.state()["scale"]
    with trainer(sae=EVERY[name](), steps=6, precision="float16", folder=tmp_path) as resumed:
        assert resumed.number == 3 and resumed._half.state()["scale"] == scale


def test_an_overflow_in_float16_skips_the_step_and_halves_the_scale() -> None:
    with trainer(steps=4, precision="float16") as run:
        run.step()
        before = [p.detach().clone() for p in run.sae.parameters()]
        scale = run._half.state()["scale"]
        handle = next(run.sae.parameters()).register_hook(lambda gradient: gradient + torch.inf)
        skipped = run.step()
        handle.remove()
        for p, q in zip(run.sae.parameters(), before, strict=True):  # only the decoder's norms are renewed
            torch.testing.assert_close(p.detach(), q, rtol=1e-6, atol=1e-7)
        assert run._half.state()["scale"] == scale / 2 and float(skipped.norm) == 0 and skipped.number == 2
        run.step()
        assert max((p.detach() - q).abs().max() for p, q in zip(run.sae.parameters(), before, strict=True)) > 1e-5


@pytest.mark.parametrize("name", ["standard", "gated", "jumprelu", "tied"])
def test_dead_features_are_resampled(name: str) -> None:
    sae = EVERY[name]()
    with torch.no_grad():
        for bias in ("b_enc", "b_gate"):
            if bias in sae.state_dict():
                getattr(sae, bias)[:20] = -1e3
    scale = "none" if name == "tied" else "unit"
    with trainer(sae=sae, steps=100, resample_every=20, dead_after=1000, scale=scale) as run:
        for _ in range(19):
            run.step()
        assert (run.dead.since[:20] >= 19 * 64).all()
        before = run.sae.W_dec[:20].clone()
        run.step()
        assert (run.sae.W_dec[:20] != before).any(1).all() and (run.dead.since[:20] == 0).all()
        moments = run.optimizer.state[run.sae.W_enc]["exp_avg"]
        assert (moments[:, :20] == 0).all() and (moments[:, 20:] != 0).any()
        for _ in range(5):
            run.step()
        assert (run.dead.since[:20] < 5 * 64).float().mean() > 0.8


def test_dead_features_of_topk_come_back_by_the_auxiliary_loss() -> None:
    def alive(coefficient: float) -> int:
        sae = TopK(TopKConfig(D, F, k=3, aux_coefficient=coefficient))
        with torch.no_grad():
            sae.b_enc[:20] = -3.0
        with trainer(sae=sae, steps=200, dead_after=300, fit_encoder=False) as run:
            for _ in range(200):
                run.step()
            return int((run.dead.since[:20] < 300).sum())

    assert alive(1 / 32) > alive(0.0) + 5


def test_activations_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(TrainingError, match=r"takes activations 12 wide, the source has rows \(5 wide\)"):
        Trainer(TopK(TopKConfig(D, F, k=3)), TensorActivations(torch.randn(99, 5)), config())
    with pytest.raises(TrainingError, match="12 and 7 wide"):
        Trainer(TopKTranscoder(TopKTranscoderConfig(D, F, d_out=7, k=5)), TensorActivations(mixtures()), config())
    with pytest.raises(TrainingError, match="nothing to learn"):
        Trainer(TopK(TopKConfig(D, F, k=3)), TensorActivations(torch.ones(99, D)), config()).step()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"steps": 0}, "steps"), ({"batch": 2.5}, "batch"), ({"lr": -1}, "lr"), ({"lr": math.nan}, "lr"),
        ({"beta1": 1.0}, "beta1"), ({"seed": -1}, "seed"),
        ({"optimizer": "sgd"}, "optimizer must be 'adam' or 'radam'"), ({"precision": "float64"}, "precision"),
        ({"accumulate": 3}, "3 equal parts"), ({"warmup_steps": 20, "decay_steps": 20}, "more than 30 steps"),
        ({"steps": "many"}, "steps"), ({"clip_norm": -1}, "clip_norm"),
    ],
)  # fmt: skip
def test_settings_are_checked(changes: dict, what: str, unchecked: None) -> None:
    with pytest.raises(TrainingError, match=what):
        config(**changes)


def test_learning_rate_schedule() -> None:
    from sae_lens_audio.training.schedule import lr_factor, sparsity_factor

    settings = config(steps=100, warmup_steps=10, decay_steps=50, sparsity_warmup_steps=4, lr_end=0.1)
    rates = [lr_factor(settings, i) for i in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1 and rates[49] == 1 and rates[100] == pytest.approx(0.1)
    assert rates[75] == pytest.approx(0.55)
    cosine = dataclasses.replace(settings, decay="cosine")
    assert lr_factor(cosine, 60) > rates[60] and lr_factor(cosine, 75) == pytest.approx(0.55)
    assert [sparsity_factor(settings, i) for i in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]

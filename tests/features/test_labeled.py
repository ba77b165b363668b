"""Evaluation of labeled clips: counts equal the activations, without padding; controls are at chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.corpora import Clip
from hooked_whisper.errors import AlignmentError, AudioError, CacheSizeError, HookedWhisperError, PatchError
from hooked_whisper.features import random_orthonormal
from hooked_whisper.features.baselines import mel_bands
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.joint_histogram import JointCounts, count
from hooked_whisper.features.phones.labeled_evaluation import activations, evaluate_bases, speaker_folds
from hooked_whisper.features.phones.position_labels import label_names, label_positions
from hooked_whisper.protocols import SILENCE, Alignment, Interval

HOOK = "encoder.blocks.1.mlp.hook_post"
TONES = {SILENCE: 0.0, "s": 5000.0, "m": 300.0, "i": 2200.0, "k": 1200.0}


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"d_model": 16, "n_heads": 2, "n_layers": 2, "d_mlp": 32}
        return HookedWhisper(
            WhisperConfig(EncoderConfig(n_mels=80, n_ctx=60, **shape), DecoderConfig(n_vocab=60, n_ctx=12, **shape))
        )


def tone_clip(seed: int, speaker: str) -> Clip:
    """A clip in which every label is a different tone, which mel bands detect."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(list(TONES), size=int(rng.integers(5, 9)))
    spans = tuple(Interval(0.12 * k, 0.12 * (k + 1), str(label)) for k, label in enumerate(labels))
    samples = np.concatenate([np.sin(2 * np.pi * TONES[x] * np.arange(1920) / 16_000) for x in labels])
    noise = rng.normal(size=len(samples)) * 0.01
    audio = (0.3 * samples + noise).astype(np.float32)
    return Clip.aligned(audio, Alignment(f"u{seed}", speaker, "", len(audio) / 16_000, (), spans), speaker)


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [tone_clip(i, f"speaker{i % 3}") for i in range(60)]


def test_counts_are_those_of_the_activations(model: HookedWhisper, clips: list[Clip]) -> None:
    few, basis = clips[:11], random_orthonormal(32)
    seen: list[list[int]] = []

    def track(batches):
        for batch in batches:
            seen.append(batch)
            yield batch

    counts = evaluate_bases(model, few, {"n": HookBasis(HOOK), "r": HookBasis(HOOK, basis)}, track=track, k=3, folds=2)
    assert [i for batch in seen for i in batch] == list(range(11))
    names = label_names(c.alignment for c in few)
    fold = speaker_folds([c.speaker for c in few], 2)
    parts: list[JointCounts] = []
    for f in range(2):
        rows, ids, tokens = [], [], 0
        for i in np.flatnonzero(fold == f):
            n = model.time.n_positions(len(few[i].samples) / 16_000)
            with torch.no_grad():
                _, cache = model.run_with_cache(model.to_mel(few[i].samples), names_filter=[HOOK], stop_early=True)
            labels = label_positions(few[i].alignment, n, names, model.time)
            rows.append(cache[HOOK][0, :n])
            ids.append(labels.ids)
            tokens = tokens + labels.tokens()
        parts.append(count(torch.cat(rows), np.concatenate(ids), names))
        got = counts["n"].folds[f]
        assert got.rows == parts[-1].rows == sum(len(x) for x in ids)
        assert np.abs(got.counts - parts[-1].counts).sum() <= 4  # batches round differently at a bin's edge
        np.testing.assert_array_equal(got.tokens, tokens)
        np.testing.assert_array_equal(counts["n"].shifted[f].counts.sum((0, 1)), got.counts.sum((0, 1)))
    assert counts["r"].counts.rows == counts["n"].counts.rows
    assert (counts["n"].top.values[:, 0] >= counts["n"].top.values[:, 2]).all()


def test_tones_are_detected_with_true_labels_only(model: HookedWhisper, clips: list[Clip]) -> None:
    counts = evaluate_bases(
        model, clips, {"mel": HookBasis("encoder.hook_mel", mel_bands(model))}, k=10, min_tokens=30
    )["mel"]
    best = counts.phones.f1_by_label.max(0)
    assert (best[[counts.names.index(x) for x in ("s", "m", "i", "k")]] > 0.8).all()
    assert counts.shifted_phones.f1.max() < 0.55 and counts.phones.f1.max() > 0.8
    top = counts.phones.f1.argmax()
    assert counts.purity().purity[top] == 1 and counts.purity(1).purity.mean() < 0.6
    assert counts.purity().labels[top] == counts.phones.labels[top]
    assert 0 <= counts.latency[top] <= 5  # a tone lasts six positions
    assert counts.phones.information[top] > 0.5 > abs(counts.shifted_phones.information[top])
    assert counts.classes.names == () or counts.class_purity().n.max() == 10


def test_inner_positions_only(model: HookedWhisper, clips: list[Clip]) -> None:
    sites = {"n": HookBasis(HOOK)}
    every, inner = (evaluate_bases(model, clips[:6], sites, positions=p)["n"].counts for p in ("all", "inner"))
    assert 0 < inner.rows < every.rows and (inner.counts <= every.counts).all()


def test_repeated_calls_are_equal(model: HookedWhisper, clips: list[Clip]) -> None:
    first, second = (evaluate_bases(model, clips[:6], {"n": HookBasis(HOOK)}, seed=3)["n"] for _ in range(2))
    for a, b in zip(first.shifted, second.shifted, strict=True):
        np.testing.assert_array_equal(a.counts, b.counts)


def test_folds_keep_speakers_together_and_are_even() -> None:
    speakers = ["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["d"] * 2
    folds = speaker_folds(speakers, 2)
    assert all(len(set(folds[[s == name for s in speakers]])) == 1 for name in "abcd")
    assert sorted(np.bincount(folds).tolist()) == [5, 7]
    assert len(set(speaker_folds(["", "", ""], 8))) == 3
    for speakers, n in ((["a", "a"], 4), (["a", "b"], 1)):
        with pytest.raises(AlignmentError, match="expected at least 2"):
            speaker_folds(speakers, n)


def test_activations_for_fitting(model: HookedWhisper, clips: list[Clip]) -> None:
    every, few = activations(model, clips[:5], HOOK), activations(model, clips[:5], HOOK, max_rows=20)
    assert len(every) == sum(model.time.n_positions(len(c.samples) / 16_000) for c in clips[:5])
    assert few.shape == (20, 32) and all((every == row).all(1).any() for row in few)


def test_errors(model: HookedWhisper, clips: list[Clip], unchecked: None) -> None:
    sites = {"n": HookBasis(HOOK)}
    with pytest.raises(CacheSizeError, match="fewer bases"):
        evaluate_bases(model, clips[:6], sites, max_bytes=1000)
    long = Clip.aligned(np.zeros(40_000, np.float32), clips[0].alignment, "x")
    with pytest.raises(AudioError, match="cut it into clips"):
        evaluate_bases(model, [clips[1], long], sites)
    with pytest.raises(PatchError, match="hook_z has no vector per position"):
        evaluate_bases(model, clips[:3], {"z": HookBasis("encoder.blocks.0.attn.hook_z")})
    with pytest.raises(PatchError, match="'all' or 'inner'"):
        evaluate_bases(model, clips[:3], sites, positions="edges")  # type: ignore[arg-type]
    with pytest.raises(HookedWhisperError):
        evaluate_bases(model, clips[:3], {"z": HookBasis("encoder.blocks.0.nothing")})

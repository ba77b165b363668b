"""Augmentation, batches, and a training run that resumes as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic.__main__ import main
from hooked_whisper.synthetic.augment import (
    AugmentConfig,
    SpeechExample,
    _mask_words,
    augment,
    change_speed,
    equalize,
    noise,
)
from hooked_whisper.synthetic.checkpoint import checkpoints
from hooked_whisper.synthetic.corpus import Corpus
from hooked_whisper.synthetic.data import (
    IGNORE,
    LETTERS,
    WINDOW,
    SpeechBatches,
    collate,
    corpus_vocabulary,
    specials,
    target,
)
from hooked_whisper.synthetic.evaluate import greedy, summarize, word_errors
from hooked_whisper.synthetic.export import describe, load_run
from hooked_whisper.synthetic.lexicon import token_ids
from hooked_whisper.synthetic.recipe import TrainConfig
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus
from hooked_whisper.synthetic.train import losses, new_model, train

SMALL = TrainConfig(
    steps=4, batch=6, full_window_batch=2, ctc_end=0.5, full_window_start=0.75, warm_up=2, log_every=1,
    evaluate_every=100, checkpoint_every=100, d_model=16, n_heads=2, n_layers=1,
)  # fmt: skip


def utterance(seed: int = 0, seconds: float = 1.0) -> tuple[np.ndarray, Alignment]:
    audio = np.random.default_rng(seed).standard_normal(int(seconds * 16000)).astype(np.float32) / 10
    words = (Interval(0.1, 0.4, "red"), Interval(0.4, 0.8, "bus"))
    return audio, Alignment("u", "s", "red bus", seconds, words, words)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_augmented_words_stay_within_the_audio(seed: int):
    audio, alignment = utterance()
    example = augment(audio, alignment, np.random.default_rng(seed), lambda n: np.ones(n, np.float32))
    assert example.audio.dtype == np.float32 and np.isfinite(example.audio).all()
    assert abs(len(example.audio) / 16000 - example.alignment.duration) < 1e-6
    end = 0.0
    for word in example.alignment.words:
        assert end <= word.start <= word.end <= example.alignment.duration + 1e-9
        end = word.end
    assert example.alignment.text in ("red bus", "") and (example.alignment.text or not example.alignment.words)


def test_augmentation_shares_and_determinism():
    audio, alignment = utterance()
    seen = [augment(audio, alignment, np.random.default_rng(k)) for k in range(600)]
    again = [augment(audio, alignment, np.random.default_rng(k)) for k in range(5)]
    assert all(np.array_equal(a.audio, b.audio) for a, b in zip(seen, again, strict=False))
    assert 0.01 < np.mean([not e.alignment.text for e in seen]) < 0.06
    assert 0.005 < np.mean([not e.audible for e in seen]) < 0.05
    assert np.array_equal(audio, utterance()[0])  # the source is not written to


def test_silenced_words_leave_the_transcript_and_covered_words_stay():
    audio, alignment = utterance()
    untouched = AugmentConfig(empty=0.0, mask_all=0.0, speed_share=0.0, mask_word=0.5, drop_silenced=1.0)
    for seed in range(40):
        rng = np.random.default_rng(seed)
        heard = _mask_words(sound := audio.copy(), alignment, rng, untouched)
        silent = [not sound[round(w.start * 16000) : round(w.end * 16000)].any() for w in alignment.words]
        assert heard.text.split() == [w.label for w, gone in zip(alignment.words, silent, strict=True) if not gone]
        assert [w.label for w in heard.words] == heard.text.split()


def test_a_fully_masked_clip_keeps_its_transcript():
    audio, alignment = utterance()
    config = AugmentConfig(empty=0.0, mask_all=1.0, drop_silenced=1.0)
    seen = [augment(audio, alignment, np.random.default_rng(k), config=config) for k in range(20)]
    assert all(e.alignment.text == "red bus" and not e.audible for e in seen)


def test_speed_moves_the_alignment_with_the_sound():
    audio = np.zeros(16000, np.float32)
    audio[8000] = 1
    click = Alignment("u", "s", "red", 1.0, (Interval(0.5, 0.6, "red"),))
    fast, moved = change_speed(audio, click, 1.1)
    assert abs(np.abs(fast).argmax() / 16000 - moved.words[0].start) < 2e-3
    assert moved.duration == pytest.approx(1 / 1.1, abs=1e-3)


def test_equaliser_shapes_the_spectrum_and_keeps_the_power():
    sound = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    shaped = equalize(sound, np.random.default_rng(1), 6.0)
    assert shaped.shape == sound.shape and np.mean(shaped**2) == pytest.approx(np.mean(sound**2), rel=1e-3)
    assert not np.allclose(shaped, sound, atol=0.1)


@pytest.mark.parametrize("kind", ["white", "pink"])
def test_noise_has_unit_power(kind: str):
    assert np.mean(noise(np.random.default_rng(0), 8000, kind) ** 2) == pytest.approx(1, rel=1e-3)


def test_targets_follow_whispers_layout():
    s, ids = specials(), token_ids()
    example = SpeechExample(*utterance())
    words = [ids["red"], ids["bus"]]
    assert target(example, 0.0, False) == (
        [s.sot, s.en, s.transcribe, s.no_timestamps, *words],
        [s.en, IGNORE, IGNORE, *words, s.eot],
    )
    tokens, labels = target(example, 0.0, True)
    assert tokens[3] == labels[2] == s.timestamp_begin + 5 and labels[-2:] == [s.timestamp_begin + 40, s.eot]
    assert target(example, 5.0, True) == target(example, 5.0, False)  # too late for a first timestamp
    # a bare prefix: what follows <|transcribe|> is not asked
    assert target(example, 0.0, False, bare=True) == (
        [s.sot, s.en, s.transcribe, *words],
        [s.en, IGNORE, IGNORE, words[1], s.eot],
    )
    empty = SpeechExample(example.audio, Alignment("u", "s", "", 1.0))
    assert target(empty, 0.0, True) == (
        [s.sot, s.en, s.transcribe, s.no_timestamps],
        [s.no_speech, IGNORE, IGNORE, s.eot],
    )
    assert set(labels) - {IGNORE} <= set(corpus_vocabulary().tolist())


def test_batches_depend_only_on_seed_and_step(corpus_folder: Path):
    corpus = Corpus(corpus_folder, "train")
    first, two = SpeechBatches(corpus, SMALL), SpeechBatches(corpus, SMALL)
    assert first[2].audio.shape[1] % 320 == 0 and first[2].start + first[2].audio.shape[1] // 320 <= 1500
    assert torch.equal(first[1].audio, two[1].audio) and torch.equal(first[1].tokens, two[1].tokens)
    assert not torch.equal(first[0].tokens, first[1].tokens)
    other = SpeechBatches(corpus, replace(SMALL, seed=1))[1]
    assert other.audio.shape != first[1].audio.shape or not torch.equal(other.audio, first[1].audio)
    full = first[3]
    assert full.audio.shape == (2, WINDOW) and full.start == 0


def test_flite_weight_repeats_its_utterances(corpus_folder: Path):
    corpus = Corpus(corpus_folder, "train")
    rows = SpeechBatches(corpus, replace(SMALL, flite_weight=3))._epoch(0).ravel().tolist()
    flite = [i for i, name in enumerate(corpus.synthesizers) if name == "flite"]
    assert 0 < len(flite) < len(corpus) / 2 < sum(i in flite for i in rows)


def test_schedules_of_a_run():
    config = TrainConfig(steps=1000)
    weights = [config.ctc_weight(step) for step in range(1000)]
    assert weights[0] == 1 and not any(weights[config.ctc_steps :]) and config.ctc_end < 0.55
    assert all(config.full_softmax(step) for step in range(config.ctc_steps, 1000))
    rates = [config.learning_rate(step) for step in range(1000)]
    assert max(rates) <= config.lr and rates[-1] < 0.02 * config.lr and min(rates) > 0


def test_restricted_softmax_matches_the_full_one_over_corpus_words(corpus_folder: Path, one_thread):
    batch = SpeechBatches(Corpus(corpus_folder, "train"), SMALL)[0]
    model, head = new_model(SMALL), nn.Linear(SMALL.d_model, len(LETTERS) + 1)
    with torch.no_grad():
        small = losses(model, head, batch, 0.0, full_softmax=False)
        model.decoder.token_embedding.weight[:] -= 0  # same weights
        full = losses(model, head, batch, 0.0, full_softmax=True)
        with_ctc = losses(model, head, batch, 0.5, full_softmax=True)
    assert small.next_token < full.next_token
    assert with_ctc.total.item() == pytest.approx(full.next_token + 0.5 * with_ctc.ctc, rel=1e-5)


def test_clips_without_words_do_not_enter_the_ctc_loss():
    audio, spoken = utterance()
    examples = [
        SpeechExample(audio, spoken),
        SpeechExample(audio, Alignment("u", "s", "", 1.0)),
        SpeechExample(audio, spoken, False),
    ]
    batch = collate(examples, np.random.default_rng(0), 0.0, False)
    assert batch.audible.tolist() == [True, False, False]


def test_resumed_run_equals_the_uninterrupted_one(corpus_folder: Path, tmp_path: Path, one_thread):
    whole = train(SMALL, corpus_folder, tmp_path / "whole")
    train(SMALL, corpus_folder, tmp_path / "parts", stop_at=2)
    parts = train(SMALL, corpus_folder, tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    loaded = load_run(tmp_path / "parts")
    assert loaded.config == SMALL and loaded.steps == 4 and len(checkpoints(tmp_path / "parts")) == 2
    assert torch.equal(loaded.model.decoder.token_embedding.weight, whole.decoder.token_embedding.weight)
    with pytest.raises(ValueError, match="other settings"):
        train(replace(SMALL, lr=1.0), corpus_folder, tmp_path / "parts")


def test_run_that_starts_from_another_records_its_history(corpus_folder: Path, tmp_path: Path, one_thread):
    train(SMALL, corpus_folder, tmp_path / "first", stop_at=1)
    train(replace(SMALL, steps=3), corpus_folder, tmp_path / "second", start_from=tmp_path / "first")
    metadata = describe(load_run(tmp_path / "second"), {"sentences": {"wer": 0.5}})
    flags = "--batch 6 --full-window-start 0.75"
    assert metadata["command"].split(" && ")[1:3] == [
        f"python -m hooked_whisper.synthetic train --steps 4 {flags} --stop-at 1 --run runs/part0",
        f"python -m hooked_whisper.synthetic train --steps 3 {flags} --start-from runs/part0",
    ]
    assert (
        metadata["steps"] == "3"
        and "schedules of 4, 3 steps" in metadata["recipe"]
        and json.loads(metadata["wer"])["sentences"]["wer"] == 0.5
    )


def test_evaluation_and_export(corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], one_thread):
    run = tmp_path / "run"
    train(SMALL, corpus_folder, run, stop_at=1)
    common = ["--corpus", str(corpus_folder), "--run", str(run)]
    assert main(["evaluate", *common, "--limit", "1"]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"sentences", "speakers", "bigrams", "no_speech", "steps"} == set(metrics)
    assert metrics["speakers"]["low"] <= metrics["speakers"]["wer"] <= metrics["speakers"]["high"]
    assert main(["export", *common, "--to", str(tmp_path / "demo"), "--clips", "4", "--align-on", "2"]) == 0
    model = HookedWhisper.from_pretrained(tmp_path / "demo")
    assert model.cfg.alignment_heads
    assert model.cfg.name == "demo" and len(SyntheticCorpus.load(tmp_path / "demo").clips("speakers")) == 2
    assert "megabytes" in capsys.readouterr().out


def test_greedy_and_word_errors(one_thread):
    model = new_model(SMALL).eval()
    assert len(greedy(model, [np.zeros(8000, np.float32)] * 3, full=False, batch=2)) == 3
    assert word_errors("the red bus", "a red bus ran") == (2, 3) and word_errors("red", "") == (1, 1)
    rate = summarize([0, 1, 0, 3], [4, 4, 4, 4])
    assert rate.wer == 0.25 and rate.low <= 0.25 <= rate.high
    assert AugmentConfig().mask_word == 0.08

"""The stream of activations: rows equal those of a direct run, with the right recordings and positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.activations import ActivationStream, iter_activations
from hooked_whisper.corpora import Recording, Window
from hooked_whisper.errors import AudioError, HookedWhisperError
from tests.findings.worlds import small_model

NEURONS, HEADS = "encoder.blocks.0.mlp.hook_post", "encoder.blocks.1.attn.hook_z"
HOOKS = [HEADS, NEURONS]


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


@pytest.fixture(scope="module")
def corpus(model: HookedWhisper) -> list[Recording]:
    rng = np.random.default_rng(0)
    lengths = [4000, 9000, 2 * model.time.n_samples + 5000, 7001, 3200]
    return [Recording(f"r{i}", rng.normal(size=n).astype(np.float32) / 10) for i, n in enumerate(lengths)]


def expected(model: HookedWhisper, recording: Recording, hook: str, padding: str = "drop") -> Tensor:
    """Rows of one recording, window by window."""
    samples, parts = recording.audio(), []
    for window in samples.split(model.time.n_samples):
        _, cache = model.run_with_cache(model.to_mel(window), names_filter=hook, stop_early=True)
        n = model.time.n_positions(len(window) / model.time.sample_rate) if padding == "drop" else model.time.n_ctx
        parts.append(cache[hook][0, :n].flatten(1))
    return torch.cat(parts)


@pytest.mark.parametrize("padding", ["drop", "keep"])
def test_rows_recordings_and_positions(model: HookedWhisper, corpus: list[Recording], padding: str) -> None:
    batches = list(iter_activations(model, corpus, HOOKS, batch=3, padding=padding))  # type: ignore[arg-type]
    assert [len(batch.windows) for batch in batches] == [3, 3, 1]
    assert list(batches[0].rows) == [NEURONS, HEADS]  # in the order of the forward pass
    recording = torch.cat([batch.recording for batch in batches])
    position = torch.cat([batch.position for batch in batches])
    for hook in HOOKS:
        rows = torch.cat([batch.rows[hook] for batch in batches])
        for i in range(len(corpus)):
            want = expected(model, corpus[i], hook, padding)
            torch.testing.assert_close(rows[recording == i], want, atol=1e-5, rtol=1e-4)
            assert position[recording == i].tolist() == list(range(len(want)))


def test_by_window_covers_the_rows(model: HookedWhisper, corpus: list[Recording]) -> None:
    for batch in iter_activations(model, corpus, NEURONS):
        parts = [(window, batch.recording[rows]) for window, rows in batch.by_window()]
        assert sum(len(part) for _, part in parts) == len(batch.recording) == sum(batch.sizes)
        assert all((part == window.recording).all() for window, part in parts)


def test_a_stream_resumes_at_a_cursor(model: HookedWhisper, corpus: list[Recording]) -> None:
    stream = ActivationStream(model, NEURONS, batch=1)
    batches = list(stream.batches(corpus))
    resumed = list(stream.batches(corpus, batches[2].windows[-1].after))
    for batch, again in zip(batches[3:], resumed, strict=True):
        assert torch.equal(batch.rows[NEURONS], again.rows[NEURONS])
        assert torch.equal(batch.position, again.position)


def test_groups_and_selections_of_windows(model: HookedWhisper, corpus: list[Recording]) -> None:
    stream = ActivationStream(model, NEURONS, batch=8)
    grouped = [{window.recording // 2 for window in batch.windows} for batch in stream.batches(corpus, group=2)]
    assert grouped == [{0}, {1}, {2}]

    def second(window: Window) -> bool:
        return window.number == 1

    (batch,) = stream.batches(corpus, select=second)
    assert [window.recording for window in batch.windows] == [2]
    assert batch.position.tolist() == list(range(model.time.n_ctx, 2 * model.time.n_ctx))


def test_on_rows_receives_the_rows_of_the_batches(model: HookedWhisper, corpus: list[Recording]) -> None:
    stream = ActivationStream(model, HOOKS, batch=2)
    received: dict[str, list[Tensor]] = {hook: [] for hook in HOOKS}
    for batch in stream.batches(corpus, on_rows=lambda hook, rows: received[hook].append(rows)):
        assert not batch.rows
    for number, batch in enumerate(stream.batches(corpus)):
        for hook in HOOKS:
            assert torch.equal(batch.rows[hook], received[hook][number])


def test_short_windows_are_runs_of_a_short_mel(model: HookedWhisper, corpus: list[Recording]) -> None:
    stream = ActivationStream(model, NEURONS, window="sound", beyond=0)
    short = next(iter(stream.batches(corpus[:1])))
    length = stream.encoded_positions(short.windows[0])
    assert length < model.time.n_ctx
    mel = short.mel[:, :, : 2 * length]
    _, cache = model.run_with_cache(mel, names_filter=NEURONS, stop_early=True, mel_positions=slice(0, length))
    n = len(short.recording)
    torch.testing.assert_close(short.rows[NEURONS], cache[NEURONS][0, :n], atol=1e-6, rtol=1e-5)


def test_no_hook_point_reads_the_mels_alone(model: HookedWhisper, corpus: list[Recording]) -> None:
    (batch,) = iter_activations(model, corpus[:2], [])
    assert not batch.rows and batch.mel.shape == (2, model.cfg.encoder.n_mels, model.cfg.encoder.n_frames)


def test_errors(model: HookedWhisper, corpus: list[Recording]) -> None:
    for hooks in (NEURONS + "x", "encoder.blocks.0.attn.hook_pattern", [NEURONS, NEURONS]):
        with pytest.raises(HookedWhisperError, match=r"hook_postx|\[batch, head, query, key\]|twice"):
            ActivationStream(model, hooks)
    with pytest.raises(HookedWhisperError, match=r"margin=1"):
        ActivationStream(model, NEURONS, padding="keep", margin=1)
    with pytest.raises(HookedWhisperError, match="sound"):
        ActivationStream(model, "decoder.blocks.0.hook_resid_post", window="sound")
    broken = [corpus[0], Recording("broken", b"no audio")]
    with pytest.raises(AudioError, match="'broken'"):
        list(iter_activations(model, broken, NEURONS))
    failures = []
    assert len(list(iter_activations(model, broken, NEURONS, failed=failures.append))) == 1
    assert [failure.id for failure in failures] == ["broken"]

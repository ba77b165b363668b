"""Small corpora for a small model with a window of 60 positions (1.2 s), and its activations clip by clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Recording
from sae_lens_audio.activations import ActivationChunk

RESID = "encoder.blocks.0.hook_resid_post"
NEURONS = "encoder.blocks.1.mlp.hook_post"
WORDS = ("the", "red", "cat", "sat", "very", "tea", "rug", "dog")


def corpus(n: int = 14, seed: int = 0, longest: float = 3.0) -> list[Recording]:
    """0.2 s to ``longest`` of noise by three speakers, with texts of one to five words."""
    rng = np.random.default_rng(seed)
    recordings = []
    for i in range(n):
        sound = 0.2 * rng.standard_normal(int(rng.integers(3200, int(16000 * longest))))
        text = " ".join(rng.choice(WORDS, int(rng.integers(1, 6))))
        recordings.append(Recording(f"clip-{i:02d}", sound.astype(np.float32), speaker=f"s{i % 3}", text=text))
    return recordings


def alone(model: HookedWhisper, recording: Recording, hook: str, keep: bool = False) -> Tensor:
    """All positions of a recording, window by window, each run by itself: ``[position, d]``."""
    size, parts = model.time.n_samples, []
    samples = recording.audio()
    tokens = None if hook.startswith("encoder") else model.to_tokens("")
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        mel = model.to_mel(torch.nn.functional.pad(part, (0, size - len(part))))
        _, cache = model.run_with_cache(mel, tokens, names_filter=hook, stop_early=True)
        n = model.time.n_ctx if keep else model.time.n_positions(len(part) / 16000)
        parts.append(cache[hook][0, :n].flatten(1))
    return torch.cat(parts)


def taught(model: HookedWhisper, recording: Recording, hook: str) -> Tensor:
    """Rows of all text tokens of a recording, teacher-forced: ``[token, d]``."""
    tokens = model.to_tokens(f" {recording.text}<|endoftext|>")
    prompt = model.to_tokens("").shape[1]
    _, cache = model.run_with_cache(model.to_mel(recording.audio()), tokens, names_filter=hook, stop_early=True)
    return cache[hook][0, prompt:-1].flatten(1)


def in_order(block: ActivationChunk) -> ActivationChunk:
    """By recording and position."""
    return block.select(np.lexsort((block.position.numpy(), block.recording.numpy())))


def joined(blocks: list[ActivationChunk]) -> ActivationChunk:
    rows = tuple(torch.cat(parts) for parts in zip(*(block.rows for block in blocks), strict=True))
    return ActivationChunk(rows, torch.cat([b.recording for b in blocks]), torch.cat([b.position for b in blocks]))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}

"""A small synthetic corpus with a given truth, and contexts on small random models."""

from __future__ import annotations

import numpy as np
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.corpora import Clip
from hooked_whisper.findings import Context, Truth, make_truth
from hooked_whisper.protocols import Alignment, Interval

WORDS = (
    "rug",
    "mug",
    "jug",
    "hat",
    "cat",
    "bat",
    "tea",
    "key",
    "sea",
    "dog",
    "red",
    "blue",
    "ran",
    "sat",
    "the",
    "very",
)
SPELLED = {w: tuple(w) for w in WORDS}


def matrix(seed: int = 0, n: int = len(WORDS)) -> np.ndarray:
    """START, words, END; about half of the pairs never occur; END has a share everywhere."""
    rng = np.random.default_rng(seed)
    b = np.zeros((n + 2, n + 2))
    b[:-1, 1:-1] = rng.dirichlet(np.full(n, 0.6), n + 1) * (rng.random((n + 1, n)) < 0.6)
    b[1:-1, -1] = 0.2
    b[0, 1] = max(b[0, 1], 0.1)
    b[:-1] /= b[:-1].sum(1, keepdims=True)
    return b


def small_config(n_ctx: int = 60, d_model: int = 32) -> WhisperConfig:
    return WhisperConfig(
        EncoderConfig(80, n_ctx, d_model, 2, 2, 2 * d_model),
        DecoderConfig(51865, 64, d_model, 2, 2, 2 * d_model),
        "small",
    )


def small_model(seed: int = 0, **shape: int) -> HookedWhisper:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HookedWhisper(small_config(**shape))


def small_truth(model: HookedWhisper, seed: int = 0) -> Truth:
    rhymes = {w: w[-2:] for w in WORDS}
    tokens = {w: model.to_single_token(f" {w}") for w in WORDS}
    return make_truth(
        WORDS, tokens, model.tokenizer.eot, matrix(seed), SPELLED, rhymes, shortest=2, longest=6, sentences=5000
    )


def utterance(name: str, text: str, n_seconds: float = 1.2, seed: int = 0) -> Clip:
    rng = np.random.default_rng(seed)
    words = text.split()
    edges = np.linspace(0.1, n_seconds - 0.2, len(words) + 1)
    spans = tuple(Interval(float(a), float(b), w) for a, b, w in zip(edges[:-1], edges[1:], words, strict=True))
    audio = (0.1 * rng.standard_normal(round(n_seconds * 16_000))).astype(np.float32)
    return Clip.aligned(audio, Alignment(name, "speaker", text, n_seconds, spans))


def small_context(count: int = 0, truth: bool = True, **more) -> Context:
    model = small_model(0)
    clips = tuple(utterance(f"u{k}", "the red cat sat", seed=k) for k in range(count))
    known = small_truth(model) if truth else None
    return Context(model, small_model(1), clips, known, **more)

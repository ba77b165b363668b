"""Evaluations with planted truth: each phone is a tone, so that bands of the log-mel detect phones."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from hooked_whisper.corpora import Clip
from hooked_whisper.features import mel_bands
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.labeled_evaluation import evaluate_bases
from hooked_whisper.findings import Context
from hooked_whisper.findings.phones.evaluation import PhoneEvaluation, first_half
from hooked_whisper.findings.phones.layer_probes import LayerProbe, LayerProbes
from hooked_whisper.findings.phones.summaries import NeuronSite, PhoneSite
from hooked_whisper.protocols import SILENCE, Alignment, Interval
from tests.findings.worlds import small_context, small_model

PHONES = ("p", "b", "t", "d", "k", "ɡ", "m", "n", "s", "z", "ʃ", "f", "v", "l")
HERTZ = np.geomspace(200, 7000, len(PHONES))
TONE, SPEAKERS = 0.06, ("a", "b", "c")  # seconds


def spoken(count: int, seed: int = 0, shuffled: bool = False) -> tuple[Clip, ...]:
    """Return clips of 1.2 s with tones of 60 ms between two silences. ``shuffled``: with shuffled labels."""
    rng = np.random.default_rng(seed)
    return tuple(_utterance(k, rng, shuffled) for k in range(count))


def _utterance(k: int, rng: np.random.Generator, shuffled: bool) -> Clip:
    said = [PHONES[i] for i in rng.permutation(len(PHONES))]
    time = np.arange(round(TONE * 16_000)) / 16_000
    tones = [np.sin(2 * np.pi * HERTZ[PHONES.index(p)] * time) * rng.uniform(0.1, 0.5) for p in said]
    quiet = np.zeros(2880)
    audio = np.concatenate([quiet, *tones, quiet]) + 1e-3 * rng.standard_normal(5760 + len(said) * len(time))
    edges = 0.18 + TONE * np.arange(len(said) + 1)
    labels = [said[i] for i in rng.permutation(len(said))] if shuffled else said
    phones = [Interval(float(a), float(b), p) for a, b, p in zip(edges[:-1], edges[1:], labels, strict=True)]
    end = len(audio) / 16_000
    phones = [Interval(0.0, 0.18, SILENCE), *phones, Interval(float(edges[-1]), end, SILENCE)]
    speaker = SPEAKERS[k % len(SPEAKERS)]
    words = (Interval(0.18, float(edges[-1]), "tones"),)
    return Clip.aligned(audio.astype(np.float32), Alignment(f"u{k}", speaker, "tones", end, words, tuple(phones)))


def context_with_phones(count: int = 0, **more) -> Context:
    """Return a context with a random model and clips of tones."""
    return replace(small_context(0), utterances=spoken(count), **more)


@cache
def planted(phonetic: bool) -> PhoneEvaluation:
    """Two blocks: the "neurons" of the first are blind (labels have nothing to do with tones), those of the second are
    mel bands, that is phones if ``phonetic``; controls are blind everywhere."""
    model = small_model(0)
    clips = spoken(120)
    blind = spoken(120, shuffled=True)
    site = {"x": HookBasis("encoder.hook_mel", mel_bands(model))}
    seen, unseen = (evaluate_bases(model, list(speech), site, k=len(clips))["x"] for speech in (clips, blind))
    first = first_half([u.alignment.speaker for u in clips])
    noise = PhoneSite.of(unseen, first)
    half = evaluate_bases(model, [u for u, a in zip(blind, first, strict=True) if not a], site, k=60)["x"]
    rng = np.random.default_rng(0)
    high, low = (rng.uniform(0.6, 0.9, 80), rng.uniform(0.1, 0.3, 80))
    return PhoneEvaluation(
        (NeuronSite.of(unseen, first), NeuronSite.of(seen if phonetic else unseen, first)),
        (noise, noise),
        (noise, noise),
        (PhoneSite.of(half, np.ones(60, dtype=bool)),) * 2,
        noise,
        first,
        ~first,
        {
            "neurons": (high, low if phonetic else high),
            "random": (low, low),
            "untrained": (low, low),
        },
        SPEAKERS,
        np.full(120, 1.2),
        probes=layer_probes(0.2, 0.7 if phonetic else 0.2),
    )


def layer_probes(first: float, second: float) -> LayerProbes:
    """Probes of two blocks that get a share of each phone's positions right; the controls get 5 % right."""

    def knows(share: float) -> LayerProbe:
        said = np.full((len(SPEAKERS), len(PHONES)), 100)
        hits = np.full(said.shape, round(100 * share))
        return LayerProbe(PHONES, SPEAKERS, hits, said, said)

    nothing = (knows(0.05),) * 2
    return LayerProbes((knows(first), knows(second)), nothing, nothing, knows(0.3))

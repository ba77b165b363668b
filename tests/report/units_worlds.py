"""Small synthetic units with clips of tones and noise, for the tests of the site."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from hooked_whisper.corpora import Clip, Recording
from hooked_whisper.protocols import Interval
from hooked_whisper.report.units import (
    POSITION_S,
    ActivationRange,
    Histogram,
    LogitEffects,
    MeanMel,
    OnsetMeans,
    PageClip,
    PhoneShare,
    SelectivityMeasure,
    SiteInfo,
    Unit,
    UnitExample,
    UnitStats,
)

PHONES = ("SIL", "s", "ɪ", "k", "s", "t", "iː", "n", "f", "SIL")
WORDS = ("six", "teen", "if")
HOSTILE = "<img src=x onerror=alert(1)></script><!--\u2028"


def clip(id: str, seed: int = 0, seconds: float | int = 3.0) -> PageClip:
    """Alternating tones and noise, one phone each, and a mel of the same frames."""
    rng = np.random.default_rng(seed)
    n, frames = round(seconds * 16_000), round(seconds * 100)
    edges = np.linspace(0, seconds, len(PHONES) + 1)
    t = np.arange(n) / 16_000
    samples = np.zeros(n)
    mel = rng.normal(0, 0.1, (80, frames)) - 1
    for i, (start, end) in enumerate(itertools.pairwise(edges)):
        inside, columns = (t >= start) & (t < end), slice(round(start * 100), round(end * 100))
        if PHONES[i] in "sftk":
            samples[inside] = 0.1 * rng.normal(size=inside.sum())
            mel[50:, columns] += 1.5
        elif PHONES[i] != "SIL":
            tones = [np.sin(2 * np.pi * f * t[inside]) for f in (150, 700 + 90 * i, 2200)]
            samples[inside] = 0.2 * sum(tones)
            mel[5:9, columns] += 2
            mel[20 + i : 24 + i, columns] += 1.5
    phones = tuple(Interval(float(a), float(b), p) for a, b, p in zip(edges[:-1], edges[1:], PHONES, strict=True))
    words = tuple(
        Interval(float(edges[a]), float(edges[b]), w) for (a, b), w in zip(((1, 5), (5, 8), (8, 9)), WORDS, strict=True)
    )
    samples = samples.astype(np.float32)
    whole = Clip(Recording(f"rec-{id}", samples, speaker="speaker 1"), samples, 1.5)
    return PageClip(id, whole, mel.astype(np.float32), " ".join(WORDS), words, phones)


def with_samples(page: PageClip, samples: np.ndarray, **change: object) -> PageClip:
    return replace(page, clip=replace(page.clip, samples=samples), **change)


def by_speaker(page: PageClip, speaker: str, recording: str = "") -> PageClip:
    known = page.clip.recording
    known = replace(known, speaker=speaker, id=recording or known.id)
    return replace(page, clip=replace(page.clip, recording=known))


def trace(peak: int, n: int = 150, height: float | int = 5.0, width: float | int = 4.0) -> np.ndarray:
    return (height * np.exp(-0.5 * ((np.arange(n) - peak) / width) ** 2)).astype(np.float32)


def ranges(n: int = 5) -> tuple[ActivationRange, ...]:
    out = []
    for i in range(n):
        s = (i + 1) / (n + 1)
        other = (1 - s) / 4
        shares = [("s", s), ("f", other), ("t", other), ("iː", other), ("SIL", other / 2), ("ʒ", other / 2)]
        phones = tuple(PhoneShare(p, v, max(0.0, v - 0.1), min(1.0, v + 0.1)) for p, v in shares)
        entropy = -sum(v * np.log(v) for _, v in shares)
        out.append(ActivationRange(float(i), float(i + 1), 50, phones, float(entropy)))
    return tuple(out)


def unit(
    index: int, examples: tuple[UnitExample, ...] = (), label: str = "/s/", score: float | int | None = 0.9
) -> Unit:
    """A unit with every part a page can draw."""
    lags = np.arange(-10, 16) * POSITION_S
    means = {
        p: h * np.exp(-0.5 * ((lags - 0.06) / 0.04) ** 2) for p, h in (("s", 4.0), ("z", 2.0), ("f", 1.0), ("m", 0.1))
    }
    counts = (1e5 * np.exp(-np.arange(50) / 4)).astype(np.int64)
    return Unit(
        index,
        UnitStats(0.03, 0.08, 0.4, 5.2, -0.17),
        label,
        "17 of the 20 strongest moments fall on /s/, on held-out speakers",
        score,
        Histogram(np.linspace(-0.2, 5.2, 51), counts),
        ranges(),
        {"SIL": 0.2, "s": 0.05, "t": 0.06, "iː": 0.05, "f": 0.02, "ə": 0.3},
        OnsetMeans(lags, means),
        LogitEffects((" six", " sister"), (0.31, 0.2), (" no",), (-0.2,)),
        MeanMel(clip("mean").mel[:, 20:61], 20),
        ((1, 0.81), (99, 0.4)),
        {"F1": 0.88, "AUC": 0.99},
        ("Labels were found automatically.",),
        examples,
        ((2, 0.25), (1, 0.1)),
    )


def examples(ids: list[str]) -> tuple[UnitExample, ...]:
    """Examples of the top group, five ranges and the random group in turn."""
    groups = ["top"] * 10 + [4, 3, 2, 1, 0] * 2 + ["random"] * 5
    return tuple(
        UnitExample(id, trace(20 + 11 * (i % 10), height=5.2 - 0.1 * i), 20 + 11 * (i % 10), groups[i % 25], rank=i)
        for i, id in enumerate(ids)
    )


def info(indices: tuple[int, ...] = (0, 1, 2), n_units: int = 1536) -> SiteInfo:
    return SiteInfo(
        "Units of a made-up block",
        "demo",
        "encoder.blocks.2.mlp.hook_post",
        "tones and noise",
        indices,
        n_units,
        "hooked-whisper features --units 0:3",
        (("seed", "0"),),
        "neuron",
        measure=SelectivityMeasure("selectivity", "0 is chance, 1 is perfect"),
        labels={1: HOSTILE},
    )

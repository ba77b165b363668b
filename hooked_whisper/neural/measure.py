"""Tables for the metadata: word error rates with intervals, counts, and the effect of the codec."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hooked_whisper.findings.core.transcripts import corpus_wer
from hooked_whisper.neural.build import load
from hooked_whisper.neural.choose import RULES
from hooked_whisper.neural.encode import KBPS, decode, encode, finish, lag
from hooked_whisper.neural.hear import MODELS, Heard, hear
from hooked_whisper.neural.phonemes import phonemize
from hooked_whisper.neural.plan import Choice, Planned, make_plan
from hooked_whisper.neural.timing import check_times

CODEC_KBPS = (16, 20, 24, 32)
CODEC_EVERY = 5  # every fifth prose recording is used to evaluate the codec


def check(folder: Path, choices: dict[str, Choice], models: Sequence[str] = MODELS) -> dict[str, Any]:
    """Measure a build and return the results for JSON. Transcripts are saved in ``folder``."""
    plan, before = make_plan(choices), make_plan({})
    return {
        "wer": {model: wer_tables(hear(plan, folder, model)) for model in models},
        "wer_before_selection": {model: wer_tables(hear(before, folder, model)) for model in models},
        "selection": selection(before, choices),
        "codec": check_codec([planned for planned in plan if planned.kind == "prose"][::CODEC_EVERY], folder, models),
        "times": check_times(plan, folder),
        "words_joined_by_espeak": joined(plan),
    }


def wer_tables(heard: Sequence[Heard]) -> dict[str, Any]:
    """Return WER in percent with 95 % intervals: for English overall, by kind and split, and by voice and language."""
    english = [answer for answer in heard if answer.planned.language == "en"]
    return {
        "english": wer_row(english),
        "kinds": _by(english, lambda answer: answer.planned.kind),
        "splits": _by(english, lambda answer: answer.planned.split),
        "voices": _by(heard, lambda answer: answer.planned.voice),
        "languages": _by(heard, lambda answer: answer.planned.language),
    }


def wer_row(heard: Sequence[Heard]) -> dict[str, float]:
    """Return WER in percent with its interval over recordings, and the fraction of recordings without an error."""
    errors = [answer.errors for answer in heard]
    wer, low, high = (round(100 * value, 2) for value in corpus_wer(errors))
    exact = sum(error.errors == 0 for error in errors) / max(1, len(errors))
    words = sum(error.n_reference for error in errors)
    return {"wer": wer, "low": low, "high": high, "words": words, "recordings": len(heard), "exact": round(exact, 3)}


def selection(before: Sequence[Planned], choices: dict[str, Choice]) -> dict[str, Any]:
    """Return the rule, and how many recordings of each kind got another voice or were dropped."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    positions: dict[str, Counter[str]] = defaultdict(Counter)
    for planned in before:
        choice = choices.get(planned.id)
        fate = "as_planned" if choice is None else "other_voice" if choice.voice else "dropped"
        kinds[planned.kind]["planned"] += 1
        kinds[planned.kind][fate] += 1
        if planned.kind == "pair" and planned.about["side"] == "a":
            positions[planned.about["position"]]["planned"] += 1
            positions[planned.about["position"]]["kept"] += fate != "dropped"
    return {
        "rule": RULES,
        "recordings": {kind: dict(counts) for kind, counts in kinds.items()},
        "pairs_by_position": {position: dict(counts) for position, counts in positions.items()},
    }


def check_codec(plan: Sequence[Planned], folder: Path, models: Sequence[str] = MODELS) -> dict[str, Any]:
    """Return WER, size and lag of recordings without the codec and at several bit rates."""
    rows: dict[str, Any] = {}
    for kbps in (None, *CODEC_KBPS):
        row: dict[str, Any] = {model: wer_row(hear(plan, folder, model, kbps)) for model in models}
        if kbps is not None:
            row |= _codec_facts(plan, folder, kbps)
        rows["uncoded" if kbps is None else f"{kbps} kbit/s"] = row
    return {"recordings": len(plan), "chosen_kbps": KBPS, "rates": rows}


def joined(plan: Sequence[Planned]) -> dict[str, dict[str, int]]:
    """Return, by language, the number of words and of those that espeak-ng joined with a neighbor or split."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for planned in plan:
        for text in planned.texts:
            phonemes = phonemize(text, planned.language)
            counts[planned.language]["words"] += len(phonemes.words)
            counts[planned.language]["joined"] += phonemes.joined
    return {language: dict(count) for language, count in counts.items()}


def _codec_facts(plan: Sequence[Planned], folder: Path, kbps: int) -> dict[str, Any]:
    size, seconds, lags, ratios = 0, 0.0, [], []
    for planned in plan:
        finished = finish(*load(planned, folder))
        content = encode(finished.audio, kbps)
        coded = decode(content)
        size += len(content)
        seconds += finished.duration
        lags.append(abs(lag(finished.audio, coded)))
        noise = float(np.mean((coded - finished.audio) ** 2))
        ratios.append(10 * np.log10(float(np.mean(finished.audio**2)) / noise))
    return {
        "kbit_per_second": round(size * 8 / seconds / 1000, 1),
        "largest_lag_samples": max(lags),
        "median_snr_db": round(float(np.median(ratios)), 1),
    }


def _by(heard: Sequence[Heard], name: Callable[[Heard], str]) -> dict[str, dict[str, float]]:
    parts: dict[str, list[Heard]] = defaultdict(list)
    for answer in heard:
        parts[name(answer)].append(answer)
    return {key: wer_row(part) for key, part in sorted(parts.items())}

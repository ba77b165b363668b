"""The data of a site as JSON: clips, units in Neuronpedia's format, and the data of a page's script."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from hooked_whisper.protocols import SILENCE, Interval
from hooked_whisper.report.units.data import POSITION_S, Number, PageClip, SiteInfo, Unit, UnitExample

Record = dict[str, Any]
_LOOP_S = 0.24  # shorter loops sound like a buzz
_HEARD = 4  # words of a unit in the index
_PREFIX, _SUFFIX = "HW.clip(", ");\n"


def clip_record(clip: PageClip) -> Record:
    """Metadata of a clip: everything except its sound and spectrogram."""
    return {
        "id": clip.id,
        "recording": clip.clip.id,
        "speaker": clip.clip.speaker,
        "text": clip.text,
        "start": short(clip.clip.offset),
        "duration": short(clip.duration),
        "n_mels": len(clip.mel),
        "words": _intervals(clip.words, clip.duration),
        "phones": _intervals(clip.phones, clip.duration),
    }


def clip_script(name: str, record: Record) -> bytes:
    """Script that registers a clip. Pages opened from a disk cannot fetch JSON but can load scripts."""
    return f"{_PREFIX}{dump(name)}, {dump(record)}{_SUFFIX}".encode("ascii")


def read_clip_script(content: bytes) -> Record:
    """Read the record from a script of :func:`clip_script`."""
    arguments = content.decode("ascii").removeprefix(_PREFIX).removesuffix(_SUFFIX)
    record: Record = json.loads(f"[{arguments}]")[1]
    return record


def unit_record(info: SiteInfo, unit: Unit, clips: Mapping[str, Record]) -> Record:
    """A unit in Neuronpedia's export format (``activations``, ``freq_hist_data_bar_values``, ...), with audio fields.

    ``tokens`` are the phones at each position, or the words of clips without phones.
    """
    stats, hist, logits, onset = unit.stats, unit.histogram, unit.logits, unit.onset
    record: Record = {
        "modelId": info.model,
        "layer": info.hook,
        "index": unit.index,
        "explanations": [{"description": unit.label, "evidence": unit.evidence, "score": unit.score}],
        "frac_nonzero": short(stats.frac_nonzero),
        "maxActApprox": short(stats.max),
        "min": short(stats.min),
        "mean": short(stats.mean),
        "variance": short(stats.variance),
        "dead": stats.dead,
        "freq_hist_data_bar_values": shorts((hist.edges[:-1] + hist.edges[1:]) / 2) if hist else [],
        "freq_hist_data_bar_heights": hist.counts.tolist() if hist else [],
        "freq_hist_edges": shorts(hist.edges) if hist else [],
        "pos_str": list(logits.pos_str) if logits else [],
        "pos_values": shorts(logits.pos_values) if logits else [],
        "neg_str": list(logits.neg_str) if logits else [],
        "neg_values": shorts(logits.neg_values) if logits else [],
        "ranges": [
            {
                "min": short(r.low),
                "max": short(r.high),
                "count": r.count,
                "entropy": short(r.entropy),
                "phones": [[p.phone, short(p.share), short(p.low), short(p.high)] for p in r.phones],
            }
            for r in unit.ranges
        ],
        "base_rates": {k: short(v) for k, v in unit.base_rates.items()},
        "selectivity": {k: short(v) for k, v in unit.selectivity.items()},
        "nearest": [[i, short(cosine)] for i, cosine in unit.nearest],
        "companions": [[i, short(share)] for i, share in unit.companions],
        "decoder_norms": {entry.hook: short(entry.norm) for entry in unit.decoder_norms},
        "relative_decoder_norms": {entry.hook: short(entry.relative) for entry in unit.decoder_norms},
        "notes": list(unit.notes),
        "activations": [_activation(e, clips[e.clip]) for e in unit.examples],
    }
    if onset is not None:
        record["onset"] = {"lags": shorts(onset.lags_s), "means": {k: shorts(v) for k, v in onset.means.items()}}
    return record


def page_example(example: UnitExample, record: Record, name: str, moment: str) -> Record:
    """Data of an example for the page's script: clip, trace, and the loop to play."""
    return {
        "clip": name,
        "moment": moment,
        "start": short(example.start_s),
        "step": POSITION_S,
        "values": _fine(example.trace),
        "peak": short(example.peak_s),
        "loop": [short(t) for t in loop_s(example, record["duration"])],
    }


def loop_s(example: UnitExample, duration: float) -> tuple[float, float]:
    """The active span of an example, extended around its middle to at least 0.24 s, within the clip."""
    start, end = example.active_s
    more = max(0.0, _LOOP_S - (end - start)) / 2
    return max(0.0, start - more), min(duration, end + more)


def label_at(intervals: Sequence[Sequence[Any]], seconds: float) -> str:
    """Label of the interval that contains a time, or ``""``."""
    return next((str(label) for start, end, label in intervals if start <= seconds < end), "")


def index_row(unit: Unit, clips: Mapping[str, Record], moment: str) -> list[Any]:
    """A row of the index: ``[index, label, score, max, frac_nonzero, mean, dead, thumbnail, words, moment]``.

    Args:
        clips: records of the clips of the unit's examples.
        moment: file name of the sound of its strongest moment, or empty.
    """
    stats = unit.stats
    numbers = [
        None if unit.score is None else short(unit.score),
        *map(short, (stats.max, stats.frac_nonzero, stats.mean)),
    ]
    heard = heard_in(unit, clips)
    return [unit.index, unit.label, *numbers, int(stats.dead), int(unit.mean_mel is not None), heard, moment]


def heard_in(unit: Unit, clips: Mapping[str, Record]) -> str:
    """Words at the peaks of the strongest examples, without repetitions; phones where the words are not known."""
    top = sorted((e for e in unit.examples if e.group == "top"), key=lambda e: e.rank)
    heard: dict[str, None] = {}
    for example in top:
        clip = clips[example.clip]
        label = label_at(clip["words"] or clip["phones"], example.peak_s)
        if label and label != SILENCE:
            heard[label.lower()] = None
    return ", ".join(list(heard)[:_HEARD])


def short(value: Number) -> float:
    """Round to five significant digits, which takes half the bytes."""
    return float(f"{value:.5g}")


def shorts(values: Iterable[Number] | np.ndarray) -> list[float]:
    """Round each value to five significant digits."""
    return [short(v) for v in values]


def _fine(trace: Float[np.ndarray, "position"]) -> list[float]:
    """Round to a thousandth of the largest value or finer, so that values near 0 are short."""
    largest = float(np.abs(trace).max())
    decimals = 3 - math.floor(math.log10(largest)) if largest > 0 else 0
    return [float(v) for v in np.round(trace.astype(float), decimals)]


def dump(value: Any) -> str:
    """Compact JSON in ASCII, without NaN. Unicode line separators would break a script."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _activation(example: UnitExample, clip: Record) -> Record:
    times = example.start_s + POSITION_S * np.arange(len(example.trace))
    return {
        "tokens": _labels(clip["phones"] or clip["words"], times),
        "values": _fine(example.trace),
        "qualifying_token_index": example.peak,
        "bin_min": example.bin_min,
        "bin_max": example.bin_max,
        "bin_contains": example.bin_contains,
        "group": example.group,
        "rank": example.rank,
        "dataIndex": example.clip,
        "recording": clip["recording"],
        "start_s": short(clip["start"] + example.start_s),
        "peak_s": short(clip["start"] + example.peak_s),
    }


def _labels(intervals: Sequence[Sequence[Any]], times: np.ndarray) -> list[str]:
    if not intervals:
        return [""] * len(times)
    ordered = sorted(map(tuple, intervals))
    starts = np.array([i[0] for i in ordered])
    index = np.searchsorted(starts, times + 1e-9, side="right") - 1
    return [ordered[i][2] if i >= 0 and t < ordered[i][1] else "" for i, t in zip(index, times, strict=True)]


def _intervals(intervals: Iterable[Interval], duration: float) -> list[list[Any]]:
    return [[round(i.start, 4), round(min(i.end, duration), 4), i.label] for i in intervals]

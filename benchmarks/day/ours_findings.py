"""F1 to F4 on a folder of files, as a user of this project writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from benchmarks.day.settings import HEAD_WINDOW, WINDOWS
from benchmarks.day.speech import RATE, read_words
from hooked_whisper.analysis import encoder_relevance, head_report
from hooked_whisper.decoding import texts
from hooked_whisper.findings.head_windows import local_count, most_local
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import baseline_encoding, replace_spans, window_masks
from hooked_whisper.interventions.masks import AttnMasks

FILES_AT_ONCE = 8


@torch.no_grad()
def run(model: HookedWhisper, folder: Path, n: int) -> dict[str, Any]:
    files = list(read_words(folder))[:n]
    mels = model.to_mel([path for path, _ in files])
    seconds = [soundfile.info(path).frames / RATE for path, _ in files]
    conditions = [window_masks(model, k) for k in WINDOWS] + local_and_other_heads(model, mels[:1], seconds[:1])
    silence = baseline_encoding(model, "zero audio")[0]
    values, by_mask, after_cuts = [], [], []
    for batch in range(0, len(files), FILES_AT_ONCE):
        mel = mels[batch : batch + FILES_AT_ONCE]
        clips = range(batch, batch + len(mel))
        # F1
        values += [median_distance(model, mels[i : i + 1], range(int(50 * seconds[i]))) for i in clips]
        # F2, F3
        by_condition = []
        for masks in conditions:
            with model.hooks(attn_masks=masks):
                by_condition.append(transcripts(model, mel))
        by_mask += [list(clip) for clip in zip(*by_condition, strict=True)]
        # F4
        for encoded, i in zip(model.embed_audio(mel), clips, strict=True):
            spans = [slice(*word) for word in files[i][1]]
            after_cuts.append(transcripts(model, replace_spans(encoded, spans, silence)))
    by_clip = [masked + cut for masked, cut in zip(by_mask, after_cuts, strict=True)]
    return {"values": values, "texts": [text for clip in by_clip for text in clip]}


def median_distance(model: HookedWhisper, mel: Tensor, rows: range) -> float:
    """Return how far from itself a position of the sound looks (relevance to the transcript), in positions."""
    look_at = encoder_relevance(model, mel, rows=list(rows)).values[0].argmax(-1)
    return float((look_at - torch.tensor(rows)).abs().float().median())


def local_and_other_heads(model: HookedWhisper, mel: Tensor, seconds: list[float]) -> list[AttnMasks]:
    """Return windows for the local two thirds of each block's heads, and for the others."""
    distance = head_report(model, mel, durations=seconds).mean("encoder", "distance")
    local = most_local(distance, local_count(distance.shape[1]))
    others = set(np.ndindex(distance.shape)) - local
    return [window_masks(model, dict.fromkeys(heads, HEAD_WINDOW)) for heads in (local, others)]


def transcripts(model: HookedWhisper, clips: Tensor) -> list[str]:
    return texts(model.decode(clips, language="en", without_timestamps=True))

"""Choose the cross-attention heads of the demo model that give word times, on its training speakers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hooked_whisper.analysis.alignment import BlockHead
from hooked_whisper.analysis.alignment_heads import choose_heads, clip_maps, set_counts
from hooked_whisper.analysis.boundaries import f1_of
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus
from hooked_whisper.synthetic.voices import SAMPLE_RATE, speakers

UTTERANCES, SEED = 120, 7
VALIDATION = 3  # the last 1/VALIDATION of the utterances is for validation
LEAD_S = 0.5  # silence before the first word
_BATCH = 8


@torch.no_grad()
def choose_alignment_heads(
    model: HookedWhisper, synthetic: SyntheticCorpus, utterances: int = UTTERANCES, seed: int = SEED
) -> tuple[BlockHead, ...]:
    """Return the set of heads with the best word boundaries at a tolerance of 100 ms (:func:`choose_heads`).

    The sentences of the grammar, spoken by espeak-ng's training speakers, have exact word times. The last third of the
    utterances is for validation. If the set is not better there than openai-whisper's default, all heads of the second
    half of the blocks, this default is returned.

    Raises:
        RuntimeError: no synthesizer is installed.
    """
    voices = speakers("train", "espeak")
    lead = np.zeros(round(LEAD_S * SAMPLE_RATE), np.float32)
    clips: list[np.ndarray] = []
    alignments: list[Alignment] = []
    for text in synthetic.sample_sentences(2 * utterances, seed):  # the synthesizer merges words in some of them
        if len(clips) == utterances:
            break
        try:
            audio, alignment = synthetic.say(text, voices[len(clips) % len(voices)])
        except ValueError:
            continue
        clips.append(np.concatenate([lead, audio.astype(np.float32)]))
        alignments.append(alignment.shifted(LEAD_S))
    batches = [clips[start : start + _BATCH] for start in range(0, len(clips), _BATCH)]
    encoder_out = torch.cat([model.embed_audio(model.to_mel(batch)) for batch in batches])
    n = len(clips) - len(clips) // VALIDATION
    best = choose_heads(model, encoder_out[:n], alignments[:n]).pairs
    cfg = model.cfg.decoder
    fallback = tuple((b, h) for b in range(cfg.n_layers // 2, cfg.n_layers) for h in range(cfg.n_heads))
    if n == len(clips):
        return best

    def f1(heads: tuple[BlockHead, ...]) -> float:
        maps = clip_maps(model, encoder_out[n:], alignments[n:], heads)
        return float(f1_of(*set_counts(maps)[:, -1].sum(0)))

    return best if f1(best) > f1(fallback) else fallback


def with_alignment_heads(model: HookedWhisper, heads: tuple[BlockHead, ...]) -> HookedWhisper:
    """Set the alignment heads of a model and return it."""
    model.cfg = replace(model.cfg, alignment_heads=heads)
    return model

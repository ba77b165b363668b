"""Choose the cross-attention heads of the demo model that give word times, on its training speakers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from hooked_whisper.analysis.alignment import Head
from hooked_whisper.analysis.alignment_heads import choose_heads, clip_maps, set_counts
from hooked_whisper.analysis.boundaries import f1_of
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus
from hooked_whisper.synthetic.voices import SAMPLE_RATE, speakers

UTTERANCES, SEED = 120, 7
VALIDATION = 3  # the last third of the utterances
LEAD_S = 0.5  # silence before the first word
_BATCH = 8


@torch.no_grad()
def choose_alignment_heads(
    model: HookedWhisper, synthetic: SyntheticCorpus, utterances: int = UTTERANCES, seed: int = SEED
) -> tuple[Head, ...]:
    """Sentences of the grammar, spoken by espeak-ng's training speakers in turn, whose word times are exact: the set
    of heads that finds most of them within 100 ms by openai-whisper's recipe (:func:`choose_heads`).

    The last third of the utterances chooses nothing: if the set is not better there than openai-whisper's fallback,
    all heads of the last half of the blocks, that is what is returned.

    Raises:
        RuntimeError: there is no synthesizer.
    """
    voices = speakers("train", "espeak")
    lead = np.zeros(round(LEAD_S * SAMPLE_RATE), np.float32)
    clips: list[np.ndarray] = []
    alignments: list[Alignment] = []
    for text in synthetic.sample_sentences(2 * utterances, seed):  # some have words the synthesizer runs together
        if len(clips) == utterances:
            break
        try:
            audio, alignment = synthetic.say(text, voices[len(clips) % len(voices)])
        except ValueError:
            continue
        clips.append(np.concatenate([lead, audio.astype(np.float32)]))
        alignments.append(alignment.shifted(LEAD_S))
    batches = [clips[at : at + _BATCH] for at in range(0, len(clips), _BATCH)]
    encoder_out = torch.cat([model.embed_audio(model.to_mel(batch)) for batch in batches])
    n = len(clips) - len(clips) // VALIDATION
    chosen = choose_heads(model, encoder_out[:n], alignments[:n])
    cfg = model.cfg.decoder
    fallback = tuple((b, h) for b in range(cfg.n_layers // 2, cfg.n_layers) for h in range(cfg.n_heads))
    if n == len(clips):
        return chosen

    def f1(heads: tuple[Head, ...]) -> float:
        kept = clip_maps(model, encoder_out[n:], alignments[n:], heads)
        return float(f1_of(*set_counts(kept)[:, -1].sum(0)))

    return chosen if f1(chosen) > f1(fallback) else fallback


def with_alignment_heads(model: HookedWhisper, heads: tuple[Head, ...]) -> HookedWhisper:
    """The same model, whose word timing reads these heads."""
    model.cfg = replace(model.cfg, alignment_heads=heads)
    return model

"""Load clips of a corpus for experiments: cut to the window, with texts and word times."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise, zip_longest

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.analysis.alignment import align
from hooked_whisper.corpora import Clip, Failure, Loaded, Loader, Recording
from hooked_whisper.corpora.tiers import cut
from hooked_whisper.errors import AlignmentError, AudioError
from hooked_whisper.findings.core.transcripts import Transcriber, normalize_words
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Alignment, Interval

SHORTEST = 0.1  # seconds; a shorter clip contains no word


@dataclass(frozen=True)
class CorpusClips:
    """Clips of a corpus.

    own_texts: number of clips whose text is the model's transcript. own_times: number of clips whose word times are
    from the model's cross-attention. failures: recordings that could not be read or used, with the reason.
    """

    utterances: tuple[Clip, ...]
    own_texts: int
    own_times: int
    failures: tuple[Failure, ...]


def balanced(corpus: Sequence[Recording]) -> list[Recording]:
    """Return the recordings with the speakers taking turns, so that the start of the list has all of them."""
    by_speaker: dict[str, list[Recording]] = defaultdict(list)
    for recording in corpus:
        by_speaker[recording.speaker].append(recording)
    rounds = zip_longest(*by_speaker.values())
    return [recording for recording in chain.from_iterable(rounds) if recording is not None]


def clips_of(
    model: HookedWhisper,
    corpus: Sequence[Recording],
    *,
    language: str = "en",
    own_times: bool = True,
    own_texts: bool = True,
) -> CorpusClips:
    """Load recordings as clips that fit the model's window.

    A recording that is longer than the window is cut between two words, or into consecutive windows if it has neither
    text nor word times. A recording without a text gets the model's transcript if ``own_texts``; otherwise it is listed
    as a failure. A recording without word times gets the times of the model's alignment heads if ``own_times``.

    Raises:
        AudioError: no recording can be used; the message names the first reason.
    """
    utterances: list[Clip] = []
    failures: list[Failure] = []
    counts = {"texts": 0, "times": 0}
    for item in Loader(corpus):
        if isinstance(item, Failure):
            failures.append(item)
            continue
        try:
            pieces = _pieces(item, model.time.duration)
        except AlignmentError as error:
            failures.append(Failure(item.index, item.recording.id, item.recording.path, str(error)))
            continue
        if not own_texts and not all(alignment.text for _, alignment in pieces):
            reason = "has no text: give one, or pass --texts own for the model's transcript"
            failures.append(Failure(item.index, item.recording.id, item.recording.path, reason))
            continue
        for samples, alignment in pieces:
            needs_text, needs_times = not alignment.text, own_times and not alignment.words
            counts["texts"] += needs_text
            counts["times"] += needs_times
            if needs_text or needs_times:
                with torch.no_grad():
                    encoded = model.embed_audio(model.to_mel(samples))  # once for both
                if needs_text:
                    alignment = replace(alignment, text=_transcript(model, encoded, language))
                if needs_times:
                    alignment = replace(alignment, words=_word_times(model, encoded, alignment, language))
            utterances.append(Clip.aligned(samples.numpy(), alignment))
    if not utterances:
        reason = f"; the first, {failures[0].id}: {failures[0].reason}" if failures else ": pass at least one"
        raise AudioError(f"none of the {len(corpus)} recordings can be used{reason}")
    return CorpusClips(tuple(utterances), counts["texts"], counts["times"], tuple(failures))


def _pieces(item: Loaded, window: float) -> list[tuple[Tensor, Alignment]]:
    recording, samples = item.recording, item.samples.detach().cpu().float()
    rate = 16_000
    duration = len(samples) / rate
    known = recording.alignment()
    alignment = Alignment(recording.id, recording.speaker, recording.text, duration) if known is None else known
    alignment = replace(
        alignment, text=recording.text or alignment.text, speaker=recording.speaker or recording.id, duration=duration
    )
    if recording.language:
        alignment = replace(alignment, extra={**alignment.extra, "language": recording.language})
    if duration <= window:
        return [(samples, alignment)] if duration >= SHORTEST else []
    if not alignment.words and not alignment.text:
        bounds = [*np.arange(0.0, duration, window).tolist(), duration]
    elif not alignment.words:
        raise AlignmentError(
            f"lasts {duration:.1f} s, longer than the model's window of {window:g} s, and has no word times at which "
            "to cut it: pass --alignments, or run `hooked-whisper align` first"
        )
    else:
        bounds = [0.0, *_cuts(alignment.words, duration, window), duration]
    parts = []
    for number, (start, end) in enumerate(pairwise(bounds), 1):
        part = cut(alignment, start, end)
        parts.append(
            (
                samples[round(start * rate) : round(end * rate)],
                replace(part, utterance=f"{recording.id} #{number}", speaker=alignment.speaker),
            )
        )
    return [(samples, part) for samples, part in parts if len(samples) >= SHORTEST * rate]


def _cuts(words: Sequence[Interval], duration: float, window: float) -> list[float]:
    """Return times between words at which to cut, each as late as the window allows.

    Raises:
        AlignmentError: a span longer than the window has no gap between two words.
    """
    gaps = [(a.end + b.start) / 2 for a, b in pairwise(words)]
    cuts: list[float] = []
    start = 0.0
    while duration - start > window:
        inside = [gap for gap in gaps if start < gap <= start + window]
        if not inside:
            raise AlignmentError(
                f"has no gap between two words from {start:.1f} to {start + window:.1f} s, where it must be cut: cut "
                "it into shorter recordings"
            )
        start = inside[-1]
        cuts.append(start)
    return cuts


@torch.no_grad()
def _transcript(model: HookedWhisper, encoded: Float[Tensor, "1 position d_model"], language: str) -> str:
    text = Transcriber(model, language)(encoded)[0]
    ids = model.to_tokens(f" {text}", prompt=False)[0]
    most = model.cfg.decoder.n_ctx // 2  # a model that repeats itself may write more tokens than its decoder can read
    return text if len(ids) <= most else normalize_words(model.tokenizer.decode(ids[:most].tolist()))


@torch.no_grad()
def _word_times(
    model: HookedWhisper, encoded: Float[Tensor, "1 position d_model"], alignment: Alignment, language: str
) -> tuple[Interval, ...]:
    duration = alignment.duration
    try:
        words = align(model, encoded, alignment.text, duration=duration, language=language).words
    except AlignmentError:  # an empty text, or one too long for the decoder: no word has a time
        return ()
    return tuple(replace(w, start=min(w.start, duration), end=min(w.end, duration)) for w in words)


def origin_of(name: str, clips: CorpusClips) -> str:
    """Describe the clips for the record: corpus, number of clips and speakers, and how many texts and word times are
    the model's own."""
    speakers = {u.alignment.speaker for u in clips.utterances}
    seconds = float(np.sum([len(u.samples) for u in clips.utterances])) / 16_000
    text = f"{name}: {len(clips.utterances)} clips by {len(speakers)} speakers, {seconds / 60:.1f} minutes"
    if clips.own_texts:
        text += f"; {clips.own_texts} texts are the model's own transcripts"
    if clips.own_times:
        text += f"; {clips.own_times} have word times by the model's own alignment heads"
    if clips.failures:
        text += f"; {len(clips.failures)} recordings could not be used"
    return text

"""Where the texts of a corpus come from: a given text, or a model's transcript."""

from __future__ import annotations

from collections.abc import Iterable

from hooked_whisper.corpora.records import Recording
from hooked_whisper.corpora.tiers import TEXT_SOURCE
from hooked_whisper.protocols import Alignment


def own_text_fact(corpus: Iterable[Recording]) -> str:
    """Describe the transcribed texts: ``"12 of 40 recordings: the transcript of tiny.en"``; empty if there are none."""
    recordings = list(corpus)
    sources = [recording.text_source for recording in recordings if recording.text_source]
    if not sources:
        return ""
    models = " and ".join(sorted(set(sources)))
    return f"{len(sources)} of {len(recordings)} recordings: the transcript of {models}, not a given text"


def own_alignments_fact(alignments: Iterable[Alignment | None]) -> str:
    """Describe the transcribed texts of alignments, as :func:`own_text_fact` does of recordings."""
    sources = [alignment.extra.get(TEXT_SOURCE, "") for alignment in alignments if alignment is not None]
    if not any(sources):
        return ""
    models = " and ".join(sorted({source for source in sources if source}))
    return f"{sum(map(bool, sources))} of {len(sources)} windows: the transcript of {models}, not a given text"

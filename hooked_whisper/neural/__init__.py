"""Build the packaged speech: neural synthesis, selection, checks and packing.

- ``plan``: the recordings, their sentences and voices (``texts/*.tsv``, ``choices.tsv``).
- ``phonemes``: text to phones (``phones.tsv``).
- ``voices``, ``kokoro``: the synthesizer, with pinned checksums; ``build``: resumable synthesis.
- ``times``: durations of the synthesizer to word and phone intervals.
- ``hear``, ``choose``: Whisper's transcripts, and the selection of recordings.
- ``timing``, ``measure``: comparison of the times with forced alignment, and all tables.
- ``pack``: write the folder ``packaged_speech``; ``compare``: compare a build with it.

``python -m hooked_whisper.neural --help`` rebuilds everything and needs the extra ``neural``. To use the speech, which
needs no extra, call :func:`hooked_whisper.corpora.packaged_speech`.
"""

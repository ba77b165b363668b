"""Neural speech: how the packaged corpus was made, and how to make it again.

- ``plan``: who says what (``texts/*.tsv``, ``choices.tsv``); ``phonemes``: text to phones (``phones.tsv``)
- ``voices``, ``kokoro``: the synthesizer, with pinned and checksummed parts; ``build``: synthesis, resumable
- ``times``: the model's durations to word and phone intervals; ``check``: what Whisper hears, what an aligner finds
- ``pack``: the files of :mod:`hooked_whisper.packaged_speech`

``python -m hooked_whisper.neural --help`` rebuilds everything; it needs the extra ``neural``. Using the corpus needs no
extra: :func:`hooked_whisper.corpora.packaged_speech`.
"""

"""Neural speech: how the packaged corpus was made, and how to make it again.

- ``plan``: who says what (``texts/*.tsv``, ``choices.tsv``); ``phonemes``: text to phones (``phones.tsv``)
- ``voices``, ``kokoro``: the synthesizer, with pinned and checksummed parts; ``build``: synthesis, resumable
- ``times``: the model's durations to word and phone intervals; ``hear``, ``choose``: what Whisper hears, what ships
- ``timing``, ``measure``: the times against forced alignment, all tables; ``pack``: the folder ``packaged_speech``

``python -m hooked_whisper.neural --help`` rebuilds everything; it needs the extra ``neural``. Using the corpus needs no
extra: :func:`hooked_whisper.corpora.packaged_speech`.
"""

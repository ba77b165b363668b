"""The spoken world: a known grammar, two synthesisers with exact timings, and the demo model trained on them.

- words and sentences: ``lexicon``, ``grammar``, ``grammar_rules``, ``sounds`` (rhymes, minimal pairs)
- speech: ``espeak``, ``flite``, ``phones`` (one label set), ``voices``, ``corpus``, ``recordings`` (the world
  as a corpus, spoken when asked)
- training: ``augment``, ``data``, ``recipe``, ``train``, ``checkpoint``, ``evaluate``, ``export``

``python -m hooked_whisper.synthetic --help`` rebuilds everything; :class:`SpokenWorld` is what a user calls.

This world belongs to the demo model, the ground-truth organism. Real Whisper does not understand its synthesizers (word
error rate 67 to 77 % on espeak-ng's sentences); speech for it is in :func:`hooked_whisper.corpora.packaged_speech`.
"""

from hooked_whisper.synthetic.pairs import SpokenPair
from hooked_whisper.synthetic.recordings import world_recordings
from hooked_whisper.synthetic.world import Clip, SpokenWorld

__all__ = ["Clip", "SpokenPair", "SpokenWorld", "world_recordings"]

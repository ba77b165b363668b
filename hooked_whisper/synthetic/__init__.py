"""The synthetic corpus: sentences of a known grammar, spoken by two synthesizers with exact phone times.

- Words and sentences: ``lexicon``, ``grammar``, ``grammar_rules``, ``sounds`` (rhymes, minimal pairs).
- Speech: ``espeak``, ``flite``, ``phones`` (one label set for both), ``voices``, ``corpus`` (the training corpus on
  disk), ``recordings`` (new sentences, synthesized when their audio is read).
- Training of the demo model: ``augment``, ``data``, ``recipe``, ``train``, ``checkpoint``, ``evaluate``, ``export``.

:class:`SyntheticCorpus` is the entry point. ``python -m hooked_whisper.synthetic --help`` rebuilds the corpus and the
demo model.

Use the synthetic corpus with the demo model only. Released Whisper models do not understand these synthesizers (their
word error rate is 67 to 77 % on espeak-ng's sentences): use :func:`hooked_whisper.corpora.packaged_speech` with them.
"""

from hooked_whisper._support.renamed import renamed_names
from hooked_whisper.synthetic.pairs import SpokenPair
from hooked_whisper.synthetic.recordings import synthetic_recordings
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus

__getattr__ = renamed_names(
    __name__,
    {
        "Clip": "hooked_whisper.corpora:Clip",
        "SpokenWorld": "SyntheticCorpus",
        "world_recordings": "synthetic_recordings",
    },
)

__all__ = ["SpokenPair", "SyntheticCorpus", "synthetic_recordings"]

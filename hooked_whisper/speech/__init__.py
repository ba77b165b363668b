"""The name that :mod:`hooked_whisper.synthetic` had in version 0.1. Imports from here still work and warn."""

from hooked_whisper._support.renamed import renamed_names

__getattr__ = renamed_names(
    __name__,
    {
        "Clip": "hooked_whisper.corpora:Clip",
        "SpokenPair": "hooked_whisper.synthetic:SpokenPair",
        "SpokenWorld": "hooked_whisper.synthetic:SyntheticCorpus",
        "world_recordings": "hooked_whisper.synthetic:synthetic_recordings",
    },
)

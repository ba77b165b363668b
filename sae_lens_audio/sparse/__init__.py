"""The name of :mod:`sae_lens_audio.architectures.sparse` in version 0.1. Imports from here still work and warn."""

from hooked_whisper._support.renamed import renamed_names

__getattr__ = renamed_names(
    __name__,
    {
        "Ranks": "sae_lens_audio.architectures.sparse:Ranks",
        "SparseCodes": "sae_lens_audio.architectures.sparse:SparseFeatureActs",
        "count_at_least": "sae_lens_audio.architectures.sparse:count_at_least",
        "encode_batch_topk": "sae_lens_audio.architectures.sparse:encode_batch_topk",
        "encode_topk": "sae_lens_audio.architectures.sparse:encode_topk",
        "largest_of_all": "sae_lens_audio.architectures.sparse:largest_of_all",
        "largest_of_rows": "sae_lens_audio.architectures.sparse:largest_of_rows",
    },
)

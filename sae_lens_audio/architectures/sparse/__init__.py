"""Sparse feature activations: lists of (row, feature, value) .

Training never stores, decodes or differentiates a matrix of size rows x features.
"""

from sae_lens_audio.architectures.sparse.encode import encode_above, encode_batch_topk, encode_topk
from sae_lens_audio.architectures.sparse.feature_acts import SparseFeatureActs
from sae_lens_audio.architectures.sparse.ranks import Ranks
from sae_lens_audio.architectures.sparse.select import count_at_least, largest_of_all, largest_of_rows

__all__ = [
    "Ranks",
    "SparseFeatureActs",
    "count_at_least",
    "encode_above",
    "encode_batch_topk",
    "encode_topk",
    "largest_of_all",
    "largest_of_rows",
]

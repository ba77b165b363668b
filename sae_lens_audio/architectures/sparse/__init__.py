"""DecodableBasis with few features per row, kept as lists of (row, feature, value): nothing of the size rows x features is
stored, decoded or differentiated. What training of the TopK family consists of, on any device.
"""

from sae_lens_audio.architectures.sparse.codes import SparseCodes
from sae_lens_audio.architectures.sparse.encode import encode_batch_topk, encode_topk
from sae_lens_audio.architectures.sparse.ranks import Ranks
from sae_lens_audio.architectures.sparse.select import count_at_least, largest_of_all, largest_of_rows

__all__ = [
    "Ranks",
    "SparseCodes",
    "count_at_least",
    "encode_batch_topk",
    "encode_topk",
    "largest_of_all",
    "largest_of_rows",
]

"""Activations of a corpus: one stream that every pass over recordings reads.

``iter_activations(model, corpus, hooks)`` yields :class:`ActivationBatch` objects: rows of each hook point, with
the recording and position of each row. :class:`ActivationStream` is the same with a cursor, for passes that can resume.
``read_rows`` does the same for log-mels in memory.
"""

from hooked_whisper.activations.batch import ActivationBatch
from hooked_whisper.activations.options import Padding, WindowSize, check_windows
from hooked_whisper.activations.points import RowUnit, points_of, row_width
from hooked_whisper.activations.rows import read_rows
from hooked_whisper.activations.stream import ActivationStream, clip_recordings, iter_activations

__all__ = [
    "ActivationBatch",
    "ActivationStream",
    "Padding",
    "RowUnit",
    "WindowSize",
    "check_windows",
    "clip_recordings",
    "iter_activations",
    "points_of",
    "read_rows",
    "row_width",
]

"""Interventions: ablate, steer, mask and replace activations, and compare transcripts with and without.

Patching activations between two runs is in :mod:`hooked_whisper.patching`.
"""

from functools import partial

from hooked_whisper._support.renamed import renamed_names
from hooked_whisper.interventions._names_of_0_1 import old_function
from hooked_whisper.interventions.ablate import HeadSweep, ablate, ablate_heads, ablate_neurons, sweep_heads
from hooked_whisper.interventions.activation_values import Means, Samples, means, position_mean, samples
from hooked_whisper.interventions.baseline_inputs import BASELINE_INPUTS, baseline_encoding, baseline_mel
from hooked_whisper.interventions.comparison import (
    CleanTranscripts,
    clean_transcripts,
    compare_transcript,
    compare_transcripts,
)
from hooked_whisper.interventions.masks import (
    HeadWindows,
    KnockOut,
    NoPadding,
    cut_padding,
    join_masks,
    knock_out,
    mask_hooks,
    window_masks,
)
from hooked_whisper.interventions.named_words import find_word
from hooked_whisper.interventions.replace import EncoderEdit, replace_encoder, replace_span, replace_spans
from hooked_whisper.interventions.steer import (
    SteerSweep,
    class_mean,
    mean_difference,
    random_control,
    steer,
    sweep_coefficients,
)
from hooked_whisper.interventions.transcript_changes import (
    ForcedWord,
    TranscriptChange,
    TranscriptChanges,
    WordChange,
)
from hooked_whisper.patching.positions import filled_positions, read_positions
from hooked_whisper.protocols import HeadRef, Positions

__all__ = [
    "BASELINE_INPUTS",
    "CleanTranscripts",
    "EncoderEdit",
    "ForcedWord",
    "HeadRef",
    "HeadSweep",
    "HeadWindows",
    "KnockOut",
    "Means",
    "NoPadding",
    "Positions",
    "Samples",
    "SteerSweep",
    "TranscriptChange",
    "TranscriptChanges",
    "WordChange",
    "ablate",
    "ablate_heads",
    "ablate_neurons",
    "baseline_encoding",
    "baseline_mel",
    "class_mean",
    "clean_transcripts",
    "compare_transcript",
    "compare_transcripts",
    "cut_padding",
    "filled_positions",
    "find_word",
    "join_masks",
    "knock_out",
    "mask_hooks",
    "mean_difference",
    "means",
    "position_mean",
    "random_control",
    "read_positions",
    "replace_encoder",
    "replace_span",
    "replace_spans",
    "samples",
    "steer",
    "sweep_coefficients",
    "sweep_heads",
    "window_masks",
]

_MOVED = (
    "COMPONENTS",
    "Directions",
    "Features",
    "KLDivergence",
    "LogitDifference",
    "Metric",
    "Patch",
    "PatchResult",
    "Receiver",
    "Subspaces",
    "WordLogProb",
    "agreement",
    "attribute_patches",
    "first_difference",
    "interval_spans",
    "make_grid",
    "path_patch",
    "path_patch_pairs",
    "read_metric",
    "run_patches",
    "subspaces_of",
    "token_spans",
    "window_spans",
    "with_spans",
)
_RENAMED = {
    "NULL_INPUTS": "BASELINE_INPUTS",
    "null_encoding": "baseline_encoding",
    "null_mel": "baseline_mel",
    "Outcome": "TranscriptChange",
    "Outcomes": "TranscriptChanges",
    "outcome": "compare_transcript",
    "outcomes": "compare_transcripts",
    "Places": "Positions",
    "places": "read_positions",
    "Axis": "hooked_whisper.patching:GridAxis",
    "Grid": "hooked_whisper.patching:PatchGrid",
    "Inputs": "hooked_whisper.patching:RunInputs",
    "Pair": "hooked_whisper.patching:CleanCorruptPair",
    "Patched": "hooked_whisper.patching:PatchedMetric",
    "localisation": "hooked_whisper.patching:localization",
    **{name: f"hooked_whisper.patching:{name}" for name in _MOVED},
    **{
        name: f"hooked_whisper.patching.corruptions:{name}"
        for name in ("CORRUPTIONS", "Corruption", "MelCorruption", "SnrSweep", "TokenCorruption", "find_snr")
    },
}
__getattr__ = renamed_names(__name__, _RENAMED, fallback=partial(old_function, __name__))

"""Activation patching: put activations of one run into another, exactly, to first order, or along one path.

:func:`patch` is the one call for sweeps; :mod:`hooked_whisper.patching.corruptions` makes the pairs of runs.
"""

from hooked_whisper.patching.attribution import attribute_patches
from hooked_whisper.patching.exact import run_patches
from hooked_whisper.patching.grid import COMPONENTS, GridAxis, Patch, PatchGrid, make_grid
from hooked_whisper.patching.metrics import (
    KLDivergence,
    LogitDifference,
    Metric,
    WordLogProb,
    first_difference,
    localization,
    read_metric,
)
from hooked_whisper.patching.path import Receiver, path_patch, path_patch_pairs
from hooked_whisper.patching.positions import interval_spans, read_positions, token_spans, window_spans
from hooked_whisper.patching.results import PatchResult, agreement
from hooked_whisper.patching.runs import CleanCorruptPair, PatchedMetric, RunInputs, with_spans
from hooked_whisper.patching.subspaces import Directions, Features, Subspaces, subspaces_of
from hooked_whisper.patching.sweep import (
    get_act_patch_attn_head_out_all_pos,
    get_act_patch_attn_out,
    get_act_patch_block_every,
    get_act_patch_mlp_out,
    get_act_patch_resid_pre,
    patch,
)
from hooked_whisper.protocols import HeadRef, Positions

__all__ = [
    "COMPONENTS",
    "CleanCorruptPair",
    "Directions",
    "Features",
    "GridAxis",
    "HeadRef",
    "KLDivergence",
    "LogitDifference",
    "Metric",
    "Patch",
    "PatchGrid",
    "PatchResult",
    "PatchedMetric",
    "Positions",
    "Receiver",
    "RunInputs",
    "Subspaces",
    "WordLogProb",
    "agreement",
    "attribute_patches",
    "first_difference",
    "get_act_patch_attn_head_out_all_pos",
    "get_act_patch_attn_out",
    "get_act_patch_block_every",
    "get_act_patch_mlp_out",
    "get_act_patch_resid_pre",
    "interval_spans",
    "localization",
    "make_grid",
    "patch",
    "path_patch",
    "path_patch_pairs",
    "read_metric",
    "read_positions",
    "run_patches",
    "subspaces_of",
    "token_spans",
    "window_spans",
    "with_spans",
]

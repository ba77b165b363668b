"""Features of activations: bases, scans of a corpus, selectivity for phones, visualization, causal checks.

- Bases: ``axes``, ``random_orthonormal``, ``pca``, ``kmeans``, ``BothSigns``. ``HookBasis`` names a hook point and a
  basis to read it in.
- ``scan`` finds the largest examples, samples of every range, and statistics (:mod:`hooked_whisper.features.scan`).
- ``evaluate_bases`` counts labeled clips; ``collect_rows`` does so by blocks of features, for large models.
  ``Selectivity`` and ``PhoneRanges`` are computed from the counts, and ``autolabels`` names features with the evidence
  (:mod:`hooked_whisper.features.phones`).
- ``visualize_features`` optimizes an input under priors, ``maximize_features`` without.
- ``causal_effects`` changes a feature and compares words.
"""

from hooked_whisper._support.renamed import renamed_names
from hooked_whisper.features.baselines import MelBands, mel_bands
from hooked_whisper.features.bases import BothSigns, Centroids, LinearBasis, axes, kmeans, pca, random_orthonormal
from hooked_whisper.features.causal import CausalEffect, causal_effects
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.phones.autolabel import Evidence, autolabels
from hooked_whisper.features.phones.classifier import PhoneClassifier
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.labeled_evaluation import activations, evaluate_bases
from hooked_whisper.features.phones.labeled_rows import LabeledRows, collect_rows
from hooked_whisper.features.phones.polyphony import PhoneRanges, active_ranges, ranges_of_examples
from hooked_whisper.features.phones.position_labels import PositionLabels, label_names, label_positions
from hooked_whisper.features.phones.row_labels import CountOptions
from hooked_whisper.features.phones.selectivity import Selectivity
from hooked_whisper.features.phones.top_examples import purity
from hooked_whisper.features.scan import FeatureScan, Scan, ScanOptions, load_scan, scan
from hooked_whisper.features.visualize import MaximizedFeatures, in_full_window, maximize_features, start_mel
from hooked_whisper.features.visualize_with_priors import MelPrior, Visualization, visualize_features

__all__ = [
    "BothSigns",
    "CausalEffect",
    "Centroids",
    "CountOptions",
    "Evidence",
    "FeatureCounts",
    "FeatureScan",
    "HookBasis",
    "LabeledRows",
    "LinearBasis",
    "MaximizedFeatures",
    "MelBands",
    "MelPrior",
    "PhoneClassifier",
    "PhoneRanges",
    "PositionLabels",
    "Scan",
    "ScanOptions",
    "Selectivity",
    "Visualization",
    "activations",
    "active_ranges",
    "autolabels",
    "axes",
    "causal_effects",
    "collect_rows",
    "evaluate_bases",
    "in_full_window",
    "kmeans",
    "label_names",
    "label_positions",
    "load_scan",
    "maximize_features",
    "mel_bands",
    "pca",
    "purity",
    "random_orthonormal",
    "ranges_of_examples",
    "scan",
    "start_mel",
    "visualize_features",
]

_MOVED_TO_PHONES = (
    "AutoLabel",
    "ConfusionTest",
    "JointCounter",
    "JointCounts",
    "OnsetAverages",
    "Purity",
    "TopExamples",
    "articulation",
    "articulatory_distance",
    "classes",
    "confusions",
    "coverage",
    "cross_selectivity",
    "latency",
    "shifted_labels",
    "signed_ranges",
)
__getattr__ = renamed_names(
    __name__,
    {
        "Cells": "hooked_whisper.features.histogram_bins:HistogramBins",
        "Dream": "MaximizedFeatures",
        "LabelledClip": "hooked_whisper.corpora:Clip.aligned",
        "LabelledRows": "LabeledRows",
        "Site": "HookBasis",
        "SiteCounts": "FeatureCounts",
        "SiteScan": "FeatureScan",
        "dream": "maximize_features",
        "dream_of": "maximize_features",
        "evaluate_sites": "evaluate_bases",
        **{name: f"hooked_whisper.features.phones:{name}" for name in _MOVED_TO_PHONES},
    },
)

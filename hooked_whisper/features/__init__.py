"""Features of activations: bases, scans of a corpus, selectivity for phones, dreams, causal checks.

- bases: ``axes``, ``random_orthonormal``, ``pca``, ``kmeans``, ``BothSigns``
- ``scan`` a corpus: largest examples, samples of every range, statistics (:mod:`hooked_whisper.features.scan`)
- phones: ``evaluate_sites`` counts labelled clips once (``collect_rows``: by blocks of features, for large models);
  ``Selectivity``, ``Purity``, ``PhoneRanges`` follow from that; ``autolabels`` names features with the evidence
- ``visualize_features`` optimizes an input under priors, ``dream_of`` without; ``causal_effects`` removes a feature and
  compares words
"""

from hooked_whisper._support.renamed import renamed_names
from hooked_whisper.features.baselines import MelBands, mel_bands, shifted_labels
from hooked_whisper.features.bases import BothSigns, Centroids, LinearBasis, axes, kmeans, pca, random_orthonormal
from hooked_whisper.features.causal import CausalEffect, causal_effects
from hooked_whisper.features.histogram_bins import Cells
from hooked_whisper.features.phones.articulation import articulation, articulatory_distance, classes
from hooked_whisper.features.phones.autolabel import AutoLabel, Evidence, autolabels
from hooked_whisper.features.phones.classifier import PhoneClassifier
from hooked_whisper.features.phones.joint_histogram import JointCounter, JointCounts
from hooked_whisper.features.phones.labeled_evaluation import SiteCounts, activations, evaluate_sites
from hooked_whisper.features.phones.labeled_rows import LabelledRows, collect_rows
from hooked_whisper.features.phones.onsets import OnsetAverages, latency
from hooked_whisper.features.phones.polyphony import (
    ConfusionTest,
    PhoneRanges,
    active_ranges,
    confusions,
    ranges_of_examples,
    signed_ranges,
)
from hooked_whisper.features.phones.position_labels import PositionLabels, label_names, label_positions
from hooked_whisper.features.phones.row_labels import CountOptions
from hooked_whisper.features.phones.selectivity import Selectivity, coverage, cross_selectivity
from hooked_whisper.features.phones.top_examples import Purity, TopExamples, purity
from hooked_whisper.features.scan import Scan, ScanOptions, SiteScan, load_scan, scan
from hooked_whisper.features.sites import Site
from hooked_whisper.features.visualize import Dream, dream_of, in_full_window, start_mel
from hooked_whisper.features.visualize_with_priors import MelPrior, Visualization, visualize_features

__getattr__ = renamed_names(__name__, {"LabelledClip": "hooked_whisper.corpora:Clip.aligned"})

__all__ = [
    "AutoLabel",
    "BothSigns",
    "CausalEffect",
    "Cells",
    "Centroids",
    "ConfusionTest",
    "CountOptions",
    "Dream",
    "Evidence",
    "JointCounter",
    "JointCounts",
    "LabelledRows",
    "LinearBasis",
    "MelBands",
    "MelPrior",
    "OnsetAverages",
    "PhoneClassifier",
    "PhoneRanges",
    "PositionLabels",
    "Purity",
    "Scan",
    "ScanOptions",
    "Selectivity",
    "Site",
    "SiteCounts",
    "SiteScan",
    "TopExamples",
    "Visualization",
    "activations",
    "active_ranges",
    "articulation",
    "articulatory_distance",
    "autolabels",
    "axes",
    "causal_effects",
    "classes",
    "collect_rows",
    "confusions",
    "coverage",
    "cross_selectivity",
    "dream_of",
    "evaluate_sites",
    "in_full_window",
    "kmeans",
    "label_names",
    "label_positions",
    "latency",
    "load_scan",
    "mel_bands",
    "pca",
    "purity",
    "random_orthonormal",
    "ranges_of_examples",
    "scan",
    "shifted_labels",
    "signed_ranges",
    "start_mel",
    "visualize_features",
]

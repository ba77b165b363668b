"""How features relate to phones: counts on labeled clips, selectivity, activation ranges, labels with evidence."""

from hooked_whisper.features.baselines import shifted_labels
from hooked_whisper.features.phones.articulation import articulation, articulatory_distance, classes
from hooked_whisper.features.phones.autolabel import AutoLabel, Evidence, autolabels
from hooked_whisper.features.phones.classifier import PhoneClassifier, phone_classifier
from hooked_whisper.features.phones.counts import FeatureCounts
from hooked_whisper.features.phones.joint_histogram import JointCounter, JointCounts
from hooked_whisper.features.phones.labeled_evaluation import activations, evaluate_bases, features_of_clips
from hooked_whisper.features.phones.labeled_rows import LabeledRows, collect_rows
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

__all__ = [
    "AutoLabel",
    "ConfusionTest",
    "CountOptions",
    "Evidence",
    "FeatureCounts",
    "JointCounter",
    "JointCounts",
    "LabeledRows",
    "OnsetAverages",
    "PhoneClassifier",
    "PhoneRanges",
    "PositionLabels",
    "Purity",
    "Selectivity",
    "TopExamples",
    "activations",
    "active_ranges",
    "articulation",
    "articulatory_distance",
    "autolabels",
    "classes",
    "collect_rows",
    "confusions",
    "coverage",
    "cross_selectivity",
    "evaluate_bases",
    "features_of_clips",
    "label_names",
    "label_positions",
    "latency",
    "phone_classifier",
    "purity",
    "ranges_of_examples",
    "shifted_labels",
    "signed_ranges",
]

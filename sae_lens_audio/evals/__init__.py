"""Evaluation of SAEs beside neurons, principal and random directions.

- ``evaluate`` scores SAEs of one hook point; ``Evaluation`` prints a table and saves JSON and a sheet of figures, which
  ``load_evaluation`` reads
- parts: ``ReconstructionScores`` (streaming, also for crosscoders), ``duplicates``, ``sparse_baselines`` at equal
  L0, ``attached_scores`` (word errors, next tokens), ``phone_scores``, ``stability`` across seeds
- clips and rows: ``labeled_clips``, ``gather_rows``
"""

from hooked_whisper._support.renamed import renamed_names
from hooked_whisper.features.phones.labeled_clips import labeled_clips
from sae_lens_audio.evals.attached import AttachedScores
from sae_lens_audio.evals.attached_runs import attached_scores
from sae_lens_audio.evals.baselines import KLargest, RandomFeatures, linear_bases, sparse_baselines
from sae_lens_audio.evals.decodable import directions
from sae_lens_audio.evals.decoder_rows import Duplicates, duplicates
from sae_lens_audio.evals.evaluate import EvaluationOptions, evaluate
from sae_lens_audio.evals.evaluation import Evaluation, load_evaluation
from sae_lens_audio.evals.phones import PhoneOptions, PhoneScores, phone_scores
from sae_lens_audio.evals.reconstruction import ReconstructionCounter, ReconstructionScores
from sae_lens_audio.evals.rows import gather_rows
from sae_lens_audio.evals.stability import Match, Stability, stability

__all__ = [
    "AttachedScores",
    "Duplicates",
    "Evaluation",
    "EvaluationOptions",
    "KLargest",
    "Match",
    "PhoneOptions",
    "PhoneScores",
    "RandomFeatures",
    "ReconstructionCounter",
    "ReconstructionScores",
    "Stability",
    "attached_scores",
    "directions",
    "duplicates",
    "evaluate",
    "gather_rows",
    "labeled_clips",
    "linear_bases",
    "load_evaluation",
    "phone_scores",
    "sparse_baselines",
    "stability",
]

__getattr__ = renamed_names(
    __name__,
    {
        "Codes": "sae_lens_audio.architectures:DecodableBasis",
        "SplicedScores": "AttachedScores",
        "labelled_clips": "labeled_clips",
        "spliced_scores": "attached_scores",
    },
)

"""Evaluation of dictionaries, every score beside neurons, principal and random directions.

- ``evaluate`` scores dictionaries of one hook point: ``Evaluation`` prints a table, saves JSON and a sheet of figures,
  ``load_evaluation`` reads it back
- its parts: ``ReconstructionScores`` (streaming, also for crosscoders), ``duplicates``, ``sparse_baselines`` at equal
  L0, ``attached_scores`` (words, tokens, divergence), ``phone_scores``, ``stability`` across seeds
- clips and rows for it: ``labelled_clips``, ``gather_rows``
"""

from sae_lens_audio.evals.attached import AttachedScores
from sae_lens_audio.evals.attached_runs import attached_scores
from sae_lens_audio.evals.baselines import KLargest, RandomFeatures, linear_bases, sparse_baselines
from sae_lens_audio.evals.decodable import DecodableBasis, directions
from sae_lens_audio.evals.decoder_rows import Duplicates, duplicates
from sae_lens_audio.evals.evaluate import EvaluationOptions, evaluate
from sae_lens_audio.evals.evaluation import Evaluation, load_evaluation
from sae_lens_audio.evals.phones import PhoneOptions, PhoneScores, phone_scores
from sae_lens_audio.evals.reconstruction import ReconstructionCounter, ReconstructionScores
from sae_lens_audio.evals.rows import gather_rows, labelled_clips
from sae_lens_audio.evals.stability import Match, Stability, stability

__all__ = [
    "AttachedScores",
    "DecodableBasis",
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
    "labelled_clips",
    "linear_bases",
    "load_evaluation",
    "phone_scores",
    "sparse_baselines",
    "stability",
]

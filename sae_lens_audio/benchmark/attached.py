"""The model with each subject attached: next tokens and word errors, against zero and mean ablation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.corpora import Clip
from hooked_whisper.hooked import HookedWhisper
from sae_lens_audio.benchmark.metric import BenchmarkMetric, Score, estimate_by_speaker
from sae_lens_audio.benchmark.subjects import Subject
from sae_lens_audio.evals.attached import CLEAN, MEAN, ZERO, AttachedScores, ConditionCounts
from sae_lens_audio.evals.attached_runs import attached_scores, whole_clips

RECOVERED = BenchmarkMetric(
    "cross_entropy_recovered",
    "CE recovered",
    "higher",
    "share",
    "Cross-entropy of the reference text with the reconstruction in place of the activation: 1 equals the clean model, "
    "0 zero ablation. Part: the same against mean ablation.",
    "SAEBench, loss recovered",
)
WORDS = BenchmarkMetric(
    "wer_change",
    "WER change",
    "lower",
    "word errors per word",
    "Word error rate of greedy transcripts with the reconstruction minus that of the clean model.",
)
KL = BenchmarkMetric(
    "kl", "KL", "lower", "nats per token", "KL(clean || with the reconstruction) of the next token, teacher-forced."
)
METRICS = (RECOVERED, WORDS, KL)


def score_attached(
    model: HookedWhisper,
    clips: Sequence[Clip],
    subjects: Sequence[Subject],
    fitted: Float[Tensor, "row d"],
    *,
    language: str = "en",
    seed: int = 0,
) -> dict[str, dict[str, Score]]:
    """Return the scores of subjects of one hook point by name, in one run of the clips, and of both ablations.

    Args:
        clips: whole recordings with their text; others are skipped.
        fitted: activations at the point that is replaced, for the mean.

    Raises:
        NoTextError: no clip is a whole recording with its text.
    """
    first = subjects[0]
    whole = whole_clips(model, clips)
    scores = attached_scores(
        model,
        whole,
        first.hook,
        {subject.name: subject.basis for subject in subjects},  # type: ignore[misc]
        fitted.double().mean(0).float(),
        hook_out=first.hook_out,
        language=language,
        seed=seed,
    )
    speakers = sorted({clip.speaker for clip in whole})
    speaker = np.array([speakers.index(clip.speaker) for clip in whole])
    return {name: _scores(scores, name, speaker, seed) for name in (*(s.name for s in subjects), MEAN, ZERO)}


def _scores(scores: AttachedScores, name: str, speaker: np.ndarray, seed: int) -> dict[str, Score]:
    by_clip = np.stack([_columns(scores.conditions[c]) for c in (CLEAN, name, ZERO, MEAN)], axis=1)
    counted = np.zeros((int(speaker.max()) + 1, 4, 5))
    sizes = np.broadcast_to(np.stack([scores.words, scores.tokens], 1)[:, None], (len(speaker), 4, 2))
    np.add.at(counted, speaker, np.concatenate([by_clip, sizes], axis=2))

    def recovered(ablation: int) -> Score:
        def share(sums: Float[np.ndarray, "draw 4 5"]) -> Float[np.ndarray, "draw"]:
            nats = sums[..., 1]
            harm = nats[:, ablation] - nats[:, 0]
            return np.divide(nats[:, ablation] - nats[:, 1], harm, out=np.full(len(harm), np.nan), where=harm > 0)

        return Score(estimate_by_speaker(counted, share, seed))

    against_zero, against_mean = recovered(2), recovered(3)
    parts = {} if against_mean.estimate.value is None else {"against mean ablation": against_mean.estimate.value}
    return {
        RECOVERED.name: Score(against_zero.estimate, parts),
        WORDS.name: Score(estimate_by_speaker(counted, lambda s: (s[:, 1, 0] - s[:, 0, 0]) / s[:, 0, 3], seed)),
        KL.name: Score(estimate_by_speaker(counted, lambda s: s[:, 1, 2] / s[:, 0, 4], seed)),
    }


def _columns(counts: ConditionCounts) -> Float[np.ndarray, "clip 3"]:
    return np.stack([counts.errors.astype(float), counts.nats, counts.kl], axis=1)

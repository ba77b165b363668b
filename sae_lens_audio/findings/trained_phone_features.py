"""F6 on released models: SAEs of the last two encoder blocks, packaged or trained on the packaged speech."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from hooked_whisper.corpora import Clip
from hooked_whisper.errors import AudioError, check_option
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.packing import n_packed
from hooked_whisper.findings.core.records import PageLink
from hooked_whisper.findings.phones.evaluation import DRAWS, ENOUGH_PHONES, ENOUGH_SPEAKERS, resampled_means
from sae_lens_audio.evals.phones import FOUND
from sae_lens_audio.findings import phone_features_drawing
from sae_lens_audio.findings.estimates import least, most
from sae_lens_audio.findings.phone_features_protocol import PROTOCOL, protocol_of
from sae_lens_audio.findings.phone_features_scores import (
    AXES,
    MIN_TOKENS,
    ORTHONORMAL,
    PCA,
    RANDOM,
    SAES,
    UNTRAINED,
    BlockScores,
    score_blocks,
)
from sae_lens_audio.findings.phone_features_tables import claims_of, measurements, notes, tables
from sae_lens_audio.findings.phone_pages import FOLDER, link_to_overview, write_phone_pages
from sae_lens_audio.findings.published import CLAIM, SUMMARY, TIED_FEATURES_BY_EAR
from sae_lens_audio.findings.trained_saes import (
    TIED,
    TOPK,
    SAESource,
    TrainedSAEs,
    has_phones,
    held_out_clips,
    packed_windows,
    saes_at_hand,
    saes_of,
    training_speech,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENOUGH = 0.6  # share of features: more than half, and below the 37 of 50 neurons published as phonetic
BEYOND = 0.0  # the whole interval of each difference must be above it
EXPLAINED = 0.8  # below it, the SAE was not trained long enough to be judged
FEW_FEATURES = 50  # live features; with fewer, the interval of a share is wider than 0.28
C_FOUND = f"share of features with an F1 of {FOUND:g} for a phone"
C_BEYOND = {
    AXES: "best-phone F1, mean over features, beyond the residual's own axes",
    PCA: "best-phone F1, mean over features, beyond principal directions",
    ORTHONORMAL: "best-phone F1, mean over features, beyond random orthonormal directions",
}
C_EXPLAINED = "explained variance of held-out speech"


@dataclass(frozen=True, eq=False)
class TrainedFeatureScores:
    """Scores of the features of every block, with the SAEs that they belong to.

    seconds: duration of the clips that the scores are of.
    """

    saes: TrainedSAEs
    blocks: tuple[BlockScores, ...]
    seconds: float


class TrainedPhoneFeatures(Experiment[TrainedFeatureScores]):
    """F6 on released models.

    Args:
        saes: ``"packaged"`` uses the packaged SAEs that fit the checkpoint and trains the missing ones; ``"trained"``
            trains all.
        runs: folder of training runs, whose SAEs are used like packaged ones.
    """

    id, title, claim, protocol = "F6", "Features for phones", CLAIM, PROTOCOL
    published, published_summary = (TIED_FEATURES_BY_EAR,), SUMMARY

    def __init__(self, saes: SAESource = "packaged", runs: str | Path | None = None) -> None:
        check_option("saes", saes, get_args(SAESource))
        self.saes, self.runs = saes, None if runs is None else Path(runs)

    def measure(self, context: Context) -> TrainedFeatureScores:
        """Load or train the SAEs, unless this context has them, and score them on held-out clips."""
        if not context.utterances:
            raise Untestable(
                "there are no clips: leave out --corpus and --audio for the packaged speech, or pass --corpus"
            )
        try:
            held_out = held_out_clips(context, training_speech())
        except AudioError as error:
            raise Untestable(
                f"this installation has no packaged speech to train SAEs on ({error}): install a release wheel"
            ) from error
        _check_clips(context, held_out)
        saes = saes_of(context, held_out, self.saes, self.runs)
        seconds = round(sum(len(clip.samples) for clip in saes.clips) / context.model.time.sample_rate, 2)
        return TrainedFeatureScores(saes, score_blocks(context, saes.blocks, saes.clips), seconds)

    def judge(self, measured: TrainedFeatureScores, setting: Setting) -> Finding:
        rng, blocks, saes = setting.rng(self.id), measured.blocks, measured.saes
        rows = {name: [_measured(block, name, rng) for block in blocks] for name in (TIED, TOPK, UNTRAINED)}
        rows["random directions"] = [_measured(block, RANDOM, rng) for block in blocks]
        rows["shifted labels"] = [_measured(block, TIED, rng, shifted=True) for block in blocks]
        claims = [Criterion(C_FOUND, least(rows[TIED], C_FOUND), ENOUGH, "at least")]
        claims += [Criterion(name, least(rows[TIED], name), BEYOND, "at least") for name in C_BEYOND.values()]
        descriptions = (
            ("random directions", "as many as the published form has features, through a ReLU"),
            (UNTRAINED, "the published form with its initial weights"),
            ("shifted labels", "the trained features, labels rotated within each window"),
        )
        topk = claims_of(claims, [least(rows[TOPK], claim.name) for claim in claims])
        finding = self.finding(
            setting,
            inputs=setting.inputs
            | {
                "clips": n_packed(saes.clips),
                "speakers judged": sorted({clip.alignment.speaker for clip in saes.clips}),
                "seconds judged": measured.seconds,
            },
            parameters=_parameters(blocks, saes),
            criteria=(*claims, *_gates(blocks)),
            controls=tuple(
                Control(name, text, {c.name: most(rows[name], c.name) for c in claims}) for name, text in descriptions
            ),
            measurements=measurements(blocks),
            tables=tables(blocks),
            notes=notes(blocks, saes, claims, topk),
            extra={"seeds": 1, "features": _features(blocks)},
        )
        return replace(finding, protocol=protocol_of(o for b in blocks for o in b.trained.origins.values()))

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw controls, F1 by kind of features and block, features by F1, and the learning curves."""
        return phone_features_drawing.draw(finding) if finding.measurements else []

    def write_pages(self, finding: Finding, context: Context, folder: Path) -> tuple[PageLink, ...]:
        """Write pages about each phone's best features, if the finding's SAEs need not be trained again."""
        saes, origins = saes_at_hand(context, self.saes, self.runs)
        known = finding.parameters.get("SAEs", {})
        same = {
            hook: {
                name: sae for name, sae in by_name.items() if known.get(_key(hook, name)) == str(origins[hook][name])
            }
            for hook, by_name in saes.items()
        }
        if not any(same.values()):
            is_written = (folder / FOLDER / "index.html").is_file()  # by the run that made the finding
            return (link_to_overview(),) if is_written else ()
        clips = packed_windows(context, held_out_clips(context, training_speech()))
        return write_phone_pages(finding, context, same, clips, folder)


def _key(hook: str, sae: str) -> str:
    """Name of an SAE among the finding's parameters."""
    return f"{sae}, block {hook.split('.')[2]}"


def _check_clips(context: Context, held_out: Sequence[Clip]) -> None:
    """
    Raises:
        Untestable: the clips have no phones, were trained on, or are of too few speakers.
    """
    if not any(has_phones(clip) for clip in context.labelled):
        raise Untestable("these clips have no phone alignment: pass --alignments, or run `hooked-whisper align`")
    if not held_out:
        raise Untestable(
            "the SAEs are trained on the packaged speech by the training voices, and every clip here is by one of "
            "them: leave out --corpus for the held-out voices, or pass another corpus"
        )
    speakers = {clip.alignment.speaker for clip in held_out}
    if len(speakers) < ENOUGH_SPEAKERS:
        raise Untestable(
            f"the clips with phones that the SAEs were not trained on are of {len(speakers)} speaker, but thresholds "
            "come from other speakers: give clips of two speakers or more"
        )


def _parameters(blocks: Sequence[BlockScores], saes: TrainedSAEs) -> dict[str, Any]:
    origins = {_key(b.trained.hook, name): str(b.trained.origins[name]) for b in blocks for name in SAES}
    parameters = {
        "blocks": [block.number for block in blocks],
        "features": {name: blocks[0].phones[name].n_features for name in SAES},
        "SAEs": origins,
        "draws": DRAWS,
    }
    if all(origin.is_loaded for block in blocks for origin in block.trained.origins.values()):
        return parameters
    return parameters | {
        "training positions": saes.n_rows,
        "training recordings": saes.recordings,
        "training windows": saes.windows,
        "training CPU seconds": saes.seconds,
    }


def _features(blocks: Sequence[BlockScores]) -> dict[str, Any]:
    """Return the best feature of every phone and published name, by hook point and SAE, for the feature pages."""
    return {
        block.trained.hook: {
            sae: {
                "phones": [asdict(detector) for detector in block.detectors[sae].values()],
                "names": [
                    asdict(named.detector) | {"verdict": named.verdict_in_words} for named in block.named[sae].values()
                ],
            }
            for sae in SAES
        }
        for block in blocks
    }


# Judging --------------------------------------------------------------------------------------------------------------


def _gates(blocks: Sequence[BlockScores]) -> tuple[Criterion, ...]:
    tied = [block.phones[TIED] for block in blocks]
    explained = min(block.reconstruction[TIED].explained_variance for block in blocks)
    alive = min(int(scores.alive.sum()) for scores in tied)
    phones = f"phones said {MIN_TOKENS} times or more"
    return (
        Criterion(C_EXPLAINED, Estimate(explained), EXPLAINED, "at least", role="gate"),
        Criterion(phones, Estimate(len(tied[0].phones)), ENOUGH_PHONES, "at least", role="gate"),
        Criterion("features alive", Estimate(alive), FEW_FEATURES, "at least", role="gate"),
    )


def _measured(block: BlockScores, name: str, rng: np.random.Generator, shifted: bool = False) -> dict[str, Estimate]:
    f1 = block.f1(name, shifted)
    share = Estimate.of((f1 >= FOUND).mean(), resampled_means((f1 >= FOUND).astype(float), rng)) if len(f1) else None
    return {C_FOUND: share or Estimate(None)} | {
        criterion: block.beyond(name, basis, rng, shifted) for basis, criterion in C_BEYOND.items()
    }

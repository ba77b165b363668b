"""Score SAEs of one hook point, beside neurons, principal and random directions at equal L0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.renamed import renamed_arguments, renamed_property
from hooked_whisper.corpora import Clip
from hooked_whisper.errors import ArgumentError, ShapeError, check_option
from hooked_whisper.features.bases import LinearBasis
from hooked_whisper.features.phones.labeled_rows import LabeledRows, Track
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import SILENCE
from sae_lens_audio.architectures import DecodableBasis
from sae_lens_audio.evals.attached import AttachedScores
from sae_lens_audio.evals.attached_runs import NoTextError, Where, attached_scores, whole_clips
from sae_lens_audio.evals.baselines import linear_bases, sparse_baselines
from sae_lens_audio.evals.decodable import directions
from sae_lens_audio.evals.decoder_rows import duplicates
from sae_lens_audio.evals.evaluation import Evaluation
from sae_lens_audio.evals.phones import PhoneOptions, PhoneScores, RarePhonesError, phone_scores
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.evals.rows import gather_rows, row_share
from sae_lens_audio.evals.stability import stability

Rows = Float[Tensor, "_ _"]  # [row, d]
_BATCH = 4096  # rows encoded together


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of :func:`evaluate`.

    Attributes:
        attached_clips: number of clips to decode in every condition; 0 skips attached scores.
        where: positions at which SAEs are attached: ``"sound"`` for those trained without padding, or ``"all"``.
        padding_too: with ``"sound"``, decode once more with the SAEs attached everywhere.
        attach_baselines: also decode with the sparse baselines attached.
        rows: maximum number of activations to score reconstruction on.
        phones: ``None`` skips phone scores.
        language: of the texts.
        seed: of all random draws.
    """

    attached_clips: int = 100
    where: Where = "sound"
    padding_too: bool = True
    attach_baselines: bool = True
    rows: int = 200_000
    phones: PhoneOptions | None = field(default_factory=PhoneOptions)
    language: str = "en"
    seed: int = 0

    spliced_clips = renamed_property("spliced_clips", "attached_clips")
    baselines_spliced = renamed_property("baselines_spliced", "attach_baselines")

    def __post_init__(self) -> None:
        check_option("where", self.where, get_args(Where))


EvaluationOptions.__init__ = renamed_arguments(  # type: ignore[method-assign]
    spliced_clips="attached_clips", baselines_spliced="attach_baselines"
)(EvaluationOptions.__init__)


@renamed_arguments(dictionaries="saes")
def evaluate(
    model: HookedWhisper,
    saes: Mapping[str, DecodableBasis],
    hook: str,
    clips: Sequence[Clip],
    train_rows: Rows | tuple[Rows, Rows],
    options: EvaluationOptions | None = None,
    *,
    hook_out: str | None = None,
    seeds: Sequence[str] = (),
    progress: bool = False,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> Evaluation:
    """Score SAEs of one hook point on clips that neither they nor the baselines were fitted on.

    Args:
        saes: by name; anything with ``encode`` and ``decode`` (or ``decode_like``) that fits the hook point, on the
            model's device.
        hook: the hook point that they read; published names are accepted.
        clips: of speakers outside the training data. Attached scores need texts; phone scores need phones of at least
            two speakers. Scores that cannot be computed are skipped and noted.
        train_rows: activations at ``hook`` of other speakers, without padding, for principal directions, means and
            mean ablation. For transcoders a pair: at ``hook`` and at ``hook_out``.
        hook_out: the hook point that transcoders predict; sparse baselines then encode its activations.
        seeds: names of two or more SAEs that differ only in their seed, for the share of recurring features.
        progress: show progress bars on stderr.
        about: further JSON values for ``inputs``.

    Raises:
        ArgumentError: no SAEs, no clips, unknown ``seeds``, a crosscoder (score its stacked rows with
            :class:`ReconstructionScores`), or a transcoder without ``hook_out``.
        ShapeError: an SAE of another width than the activations, or NaN in them.
        UnknownHookError: no such hook point.
    """
    options = options or EvaluationOptions()
    reads, writes = _points(model, saes, hook, hook_out)
    fitted_in, fitted_out = train_rows if isinstance(train_rows, tuple) else (train_rows, train_rows)
    _check(saes, fitted_in, fitted_out, reads, writes, clips, seeds)
    track, notes = _Track(progress), list[str]()

    dense = linear_bases(fitted_in, options.seed)
    phones, rows = _phones_and_rows(model, clips, saes, dense, (reads, writes), options, track, notes)
    inputs, targets = ([part.to(model.device) for part in rows[hook].split(_BATCH)] for hook in (reads, writes))
    pairs = list(zip(inputs, targets, strict=True))
    scores = {name: ReconstructionScores.of(sae, pairs, hook=reads) for name, sae in saes.items()}

    bases = dense if reads == writes else linear_bases(fitted_out, options.seed)
    of_equal_l0 = [(basis, code) for s in scores.values() for basis, code in sparse_baselines(bases, s.l0).items()]
    sparse = {f"{basis} k={code.k}": code for basis, code in of_equal_l0}
    scores |= {name: ReconstructionScores.of(code, targets, hook=writes) for name, code in sparse.items()}

    attached = None
    if options.attached_clips:
        try:
            whole = whole_clips(model, clips)
        except NoTextError as error:
            notes.append(f"not attached: {error}")
        else:
            attached = attached_scores(
                model,
                _evenly(whole, options.attached_clips),
                reads,
                {**saes, **(sparse if options.attach_baselines else {})},
                fitted_out.double().mean(0).float(),
                hook_out=None if reads == writes else writes,
                where=options.where,
                padding_too=tuple(saes) if options.padding_too else (),
                language=options.language,
                seed=options.seed,
                track=track("attached SAEs"),
            )
    by_seed = {name: saes[name] for name in seeds}
    return Evaluation(
        model=model.cfg.name,
        hook=reads,
        hook_out=writes,
        saes={name: described(sae) for name, sae in saes.items()},
        baselines={f"{basis} k={code.k}": basis for basis, code in of_equal_l0},
        inputs={**_inputs(model, clips, rows[reads], fitted_in, attached, options), **about},
        reconstruction=scores,
        duplicates={name: duplicates(directions(sae)) for name, sae in saes.items()},
        attached=attached,
        phones=phones,
        stability=stability(by_seed, {name: scores[name].alive for name in by_seed}, options.seed) if by_seed else None,
        notes=tuple(notes),
    )


def described(sae: Any) -> str:
    """Return architecture and size, such as ``"topk, 1024 features"``."""
    inner = getattr(sae, "inner", sae)
    architecture = getattr(inner, "architecture", type(inner).__name__)
    return f"{architecture}, {sae.n_features} features"


def _points(
    model: HookedWhisper, saes: Mapping[str, DecodableBasis], hook: str, hook_out: str | None
) -> tuple[str, str]:
    names = []
    for pattern in (hook, hook if hook_out is None else hook_out):
        matches = model.hook_names(pattern)
        if len(matches) != 1:
            raise ArgumentError(f"{pattern!r} names {len(matches)} points: evaluate SAEs of one point at a time")
        names.append(matches[0])
    for name, sae in saes.items():
        if getattr(sae, "reads_several_hooks", False):
            raise ArgumentError(
                f"{name} is a crosscoder, which reads several points: score its stacked rows with ReconstructionScores"
            )
        predicts = getattr(sae, "predicts_other_hook", False)
        if predicts and hook_out is None:
            raise ArgumentError(f"{name} is a transcoder: name the point it predicts with hook_out=")
        if hook_out is not None and not predicts:
            raise ArgumentError(f"{name} is not a transcoder: evaluate it without hook_out")
    return names[0], names[1]


def _check(
    saes: Mapping[str, DecodableBasis],
    fitted_in: Rows,
    fitted_out: Rows,
    reads: str,
    writes: str,
    clips: Sequence[Clip],
    seeds: Sequence[str],
) -> None:
    """Check arguments before the long computations."""
    if not clips or not saes:
        raise ArgumentError(f"{len(saes)} SAEs on {len(clips)} clips: give at least one of each")
    for name, sae in saes.items():
        config = getattr(sae, "config", None)
        for width, point, rows in (
            (getattr(sae, "d_in", None), reads, fitted_in),
            (getattr(config, "d_out", None), writes, fitted_out),
        ):
            if width is not None and width != rows.shape[1]:
                raise ShapeError(
                    f"{name} takes vectors of {width}, those of {point} are {rows.shape[1]} wide: give the hook point "
                    "and the model it was trained on"
                )
    if unknown := sorted(set(seeds) - set(saes)):
        raise ArgumentError(f"seeds names {unknown[0]!r}, which is not among the SAEs")
    if len(set(seeds)) == 1:
        raise ArgumentError("seeds names one SAE: name two SAEs or more to compare")


def _phones_and_rows(
    model: HookedWhisper,
    clips: Sequence[Clip],
    saes: Mapping[str, DecodableBasis],
    dense: Mapping[str, LinearBasis],
    points: tuple[str, str],
    options: EvaluationOptions,
    track: _Track,
    notes: list[str],
) -> tuple[dict[str, PhoneScores], dict[str, Rows]]:
    """Compute phone scores and sample rows, in one pass over the clips if phones can be scored."""
    reason = _no_phones(model, clips, points) if options.phones else "skipped"
    if options.phones is None or reason:
        notes.append(f"no phones: {reason}")
        return {}, gather_rows(model, clips, list(dict.fromkeys(points)), options.rows, options.language, options.seed)
    share = row_share(model, clips, options.rows)
    sampled: dict[str, Rows] = {}

    def keep_sample(rows: LabeledRows) -> None:
        sampled.update({hook: rows.sample(hook, share, options.seed) for hook in points})

    scores: dict[str, PhoneScores] = {}
    try:
        scores = phone_scores(
            model, clips, points[0], saes, dense, options.phones, track("phones and rows"), points, keep_sample
        )
    except RarePhonesError as error:
        notes.append(f"no phones: {error}")
    return scores, sampled


def _no_phones(model: HookedWhisper, clips: Sequence[Clip], points: Iterable[str]) -> str:
    """Return why phones cannot be scored; empty if they can."""
    for hook in points:
        axes = model.hook_dict[hook].axes
        if not hook.startswith("encoder.") or axes[:2] != ("batch", "position") or len(axes) != 3:
            return f"{hook} [{', '.join(axes)}] has no vector at every position of the encoder"
    if not any(i.label != SILENCE for c in clips for i in c.alignment.phones):
        return "the alignments of the clips have none"
    speakers = {clip.speaker or str(k) for k, clip in enumerate(clips)}
    return "" if len(speakers) > 1 else "the clips are of one speaker, but thresholds are fitted on other speakers"


def _evenly(clips: Sequence[Clip], n: int) -> list[Clip]:
    """Return ``n`` clips evenly spaced over the list, so that all speakers are represented."""
    return [clips[i] for i in np.linspace(0, len(clips) - 1, min(n, len(clips))).round().astype(int)]


def _inputs(
    model: HookedWhisper,
    clips: Sequence[Clip],
    rows: Rows,
    fitted: Rows,
    attached: AttachedScores | None,
    options: EvaluationOptions,
) -> dict[str, Any]:
    return {
        "clips": len(clips),
        "speakers": len({clip.speaker for clip in clips}),
        "seconds": round(sum(len(clip.samples) for clip in clips) / model.time.sample_rate, 2),
        "rows": len(rows),
        "training rows": len(fitted),
        "attached clips": 0 if attached is None else len(attached.clips),
        "options": asdict(options),
    }


class _Track:
    """Makes progress bars, if shown."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def __call__(self, description: str) -> Track:
        from tqdm import tqdm

        def track(steps: Sequence[list[int]]) -> Iterator[list[int]]:
            yield from tqdm(steps, desc=description, disable=not self._shown, leave=False)

        return track

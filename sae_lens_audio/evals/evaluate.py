"""All scores of dictionaries of one hook point, each beside neurons, principal and random directions at equal L0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.corpora import Clip
from hooked_whisper.errors import ArgumentError, ShapeError, check_option
from hooked_whisper.features.bases import LinearBasis
from hooked_whisper.features.phones.labeled_rows import LabeledRows, Track
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import SILENCE
from sae_lens_audio.evals.attached import AttachedScores
from sae_lens_audio.evals.attached_runs import NoTextError, Where, attached_scores, whole_clips
from sae_lens_audio.evals.baselines import linear_bases, sparse_baselines
from sae_lens_audio.evals.decodable import DecodableBasis, directions
from sae_lens_audio.evals.decoder_rows import duplicates
from sae_lens_audio.evals.evaluation import Evaluation
from sae_lens_audio.evals.phones import PhoneOptions, PhoneScores, RarePhonesError, phone_scores
from sae_lens_audio.evals.reconstruction import ReconstructionScores
from sae_lens_audio.evals.rows import gather_rows, row_share
from sae_lens_audio.evals.stability import stability

Rows = Float[Tensor, "_ _"]  # [row, d], of other numbers and widths at each point
_BATCH = 4096  # rows encoded together


@dataclass(frozen=True)
class EvaluationOptions:
    """What an evaluation does and leaves out.

    Attributes:
        spliced_clips: how many clips are decoded in every condition; 0 leaves splicing out.
        where: positions at which dictionaries are spliced in: ``"sound"`` for those trained without padding, or
            ``"all"``.
        padding_too: with ``"sound"``, decode once more with the dictionaries spliced in everywhere.
        baselines_spliced: decode with the sparse baselines too.
        rows: most activations that reconstruction is scored on.
        phones: ``None`` leaves phones out.
        language: of the texts.
        seed: of every draw.
    """

    spliced_clips: int = 100
    where: Where = "sound"
    padding_too: bool = True
    baselines_spliced: bool = True
    rows: int = 200_000
    phones: PhoneOptions | None = field(default_factory=PhoneOptions)
    language: str = "en"
    seed: int = 0

    def __post_init__(self) -> None:
        check_option("where", self.where, get_args(Where))


def evaluate(
    model: HookedWhisper,
    dictionaries: Mapping[str, DecodableBasis],
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
    """Score dictionaries of one hook point on clips that neither they nor the baselines were fitted on.

    Args:
        dictionaries: by name. What has ``encode`` and ``decode`` (or ``decode_like``) and fits the point; on the
            model's device.
        hook: the point they read; a published name will do.
        clips: of speakers that training did not hear. Their texts are needed for splicing; phones, of two or more
            speakers, for phone scores. What cannot be done is left out and noted.
        train_rows: activations at ``hook`` of other speakers, without padding, for the baselines' principal directions
            and means and for mean ablation. For transcoders a pair: at ``hook`` and at ``hook_out``.
        hook_out: for transcoders, the point they predict; sparse baselines are then codes of its own activations.
        seeds: names of two or more dictionaries that differ by their seed alone: how many features are found again.
        progress: bars on stderr.
        about: what else the record shall say, JSON values.

    Raises:
        PatchError: a dictionary that does not fit the point; a crosscoder (:class:`ReconstructionScores` takes its
            stacked rows); NaN; no clips.
        UnknownHookError: no such point.
    """
    chosen = options or EvaluationOptions()
    reads, writes = _points(model, dictionaries, hook, hook_out)
    fitted_in, fitted_out = train_rows if isinstance(train_rows, tuple) else (train_rows, train_rows)
    _check(dictionaries, fitted_in, fitted_out, reads, writes, clips, seeds)
    track, notes = _Track(progress), list[str]()

    dense = linear_bases(fitted_in, chosen.seed)
    phones, rows = _phones_and_rows(model, clips, dictionaries, dense, (reads, writes), chosen, track, notes)
    given, targets = ([part.to(model.device) for part in rows[hook].split(_BATCH)] for hook in (reads, writes))
    pairs = list(zip(given, targets, strict=True))
    scores = {name: ReconstructionScores.of(one, pairs, hook=reads) for name, one in dictionaries.items()}

    bases = dense if reads == writes else linear_bases(fitted_out, chosen.seed)
    of_equal_l0 = [(basis, one) for s in scores.values() for basis, one in sparse_baselines(bases, s.l0).items()]
    sparse = {f"{basis} k={one.k}": one for basis, one in of_equal_l0}
    scores |= {name: ReconstructionScores.of(one, targets, hook=writes) for name, one in sparse.items()}

    spliced = None
    if chosen.spliced_clips:
        try:
            whole = whole_clips(model, clips)
        except NoTextError as error:
            notes.append(f"not spliced: {error}")
        else:
            spliced = attached_scores(
                model,
                _evenly(whole, chosen.spliced_clips),
                reads,
                {**dictionaries, **(sparse if chosen.baselines_spliced else {})},
                fitted_out.double().mean(0).float(),
                hook_out=None if reads == writes else writes,
                where=chosen.where,
                padding_too=tuple(dictionaries) if chosen.padding_too else (),
                language=chosen.language,
                seed=chosen.seed,
                track=track("splicing"),
            )
    same = {name: dictionaries[name] for name in seeds}
    return Evaluation(
        model=model.cfg.name,
        hook=reads,
        hook_out=writes,
        dictionaries={name: described(one) for name, one in dictionaries.items()},
        baselines={f"{basis} k={one.k}": basis for basis, one in of_equal_l0},
        inputs={**_inputs(model, clips, rows[reads], fitted_in, spliced, chosen), **about},
        reconstruction=scores,
        duplicates={name: duplicates(directions(one)) for name, one in dictionaries.items()},
        spliced=spliced,
        phones=phones,
        stability=stability(same, {name: scores[name].alive for name in same}, chosen.seed) if same else None,
        notes=tuple(notes),
    )


def described(codes: Any) -> str:
    """``"topk, 1024 features"``"""
    inner = getattr(codes, "inner", codes)
    what = getattr(inner, "architecture", type(inner).__name__)
    return f"{what}, {codes.n_features} features"


def _points(
    model: HookedWhisper, dictionaries: Mapping[str, DecodableBasis], hook: str, hook_out: str | None
) -> tuple[str, str]:
    names = []
    for one in (hook, hook if hook_out is None else hook_out):
        found = model.hook_names(one)
        if len(found) != 1:
            raise ArgumentError(f"{one!r} names {len(found)} points: dictionaries of one are evaluated at a time")
        names.append(found[0])
    for name, codes in dictionaries.items():
        if getattr(codes, "reads_several_hooks", False):
            raise ArgumentError(
                f"{name} is a crosscoder, which reads several points: score its stacked rows with ReconstructionScores"
            )
        predicts = getattr(codes, "predicts_other_hook", False)
        if predicts and hook_out is None:
            raise ArgumentError(f"{name} is a transcoder: say with hook_out= which point it predicts")
        if hook_out is not None and not predicts:
            raise ArgumentError(f"{name} is no transcoder: evaluate it without hook_out")
    return names[0], names[1]


def _check(
    dictionaries: Mapping[str, DecodableBasis],
    fitted_in: Rows,
    fitted_out: Rows,
    reads: str,
    writes: str,
    clips: Sequence[Clip],
    seeds: Sequence[str],
) -> None:
    """What is wrong is said before anything long starts."""
    if not clips or not dictionaries:
        raise ArgumentError(f"{len(dictionaries)} dictionaries on {len(clips)} clips: give one of each at least")
    for name, codes in dictionaries.items():
        config = getattr(codes, "config", None)
        for width, point, rows in (
            (getattr(codes, "d_in", None), reads, fitted_in),
            (getattr(config, "d_out", None), writes, fitted_out),
        ):
            if width is not None and width != rows.shape[1]:
                raise ShapeError(
                    f"{name} is for vectors of {width}, those of {point} are {rows.shape[1]} wide: give the hook point "
                    "and the model it was trained on"
                )
    if unknown := sorted(set(seeds) - set(dictionaries)):
        raise ArgumentError(f"seeds names {unknown[0]!r}, which is not among the dictionaries")
    if len(set(seeds)) == 1:
        raise ArgumentError("one seed has nothing to be compared with: name two dictionaries or more")


def _phones_and_rows(
    model: HookedWhisper,
    clips: Sequence[Clip],
    dictionaries: Mapping[str, DecodableBasis],
    dense: Mapping[str, LinearBasis],
    points: tuple[str, str],
    options: EvaluationOptions,
    track: _Track,
    notes: list[str],
) -> tuple[dict[str, PhoneScores], dict[str, Rows]]:
    """In one pass over the clips, where phones can be scored."""
    reason = _no_phones(model, clips, points) if options.phones else "not asked for"
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
            model, clips, points[0], dictionaries, dense, options.phones, track("phones and rows"), points, keep_sample
        )
    except RarePhonesError as error:
        notes.append(f"no phones: {error}")
    return scores, sampled


def _no_phones(model: HookedWhisper, clips: Sequence[Clip], points: Iterable[str]) -> str:
    """Why phones cannot be scored; empty if they can."""
    for hook in points:
        axes = model.hook_dict[hook].axes
        if not hook.startswith("encoder.") or axes[:2] != ("batch", "position") or len(axes) != 3:
            return f"{hook} [{', '.join(axes)}] has no vector at every position of the encoder"
    if not any(i.label != SILENCE for c in clips for i in c.alignment.phones):
        return "the clips' alignments have none"
    speakers = {clip.speaker or str(k) for k, clip in enumerate(clips)}
    return "" if len(speakers) > 1 else "the clips are of one speaker, thresholds need others"


def _evenly(clips: Sequence[Clip], n: int) -> list[Clip]:
    """So many, from the whole length of the list, so that all speakers have their share."""
    return [clips[i] for i in np.linspace(0, len(clips) - 1, min(n, len(clips))).round().astype(int)]


def _inputs(
    model: HookedWhisper,
    clips: Sequence[Clip],
    rows: Rows,
    fitted: Rows,
    spliced: AttachedScores | None,
    options: EvaluationOptions,
) -> dict[str, Any]:
    return {
        "clips": len(clips),
        "speakers": len({clip.speaker for clip in clips}),
        "seconds": round(sum(len(clip.samples) for clip in clips) / model.time.sample_rate, 2),
        "rows": len(rows),
        "training rows": len(fitted),
        "spliced clips": 0 if spliced is None else len(spliced.clips),
        "options": asdict(options),
    }


class _Track:
    """Progress bars, or nothing."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown

    def __call__(self, what: str) -> Track:
        from tqdm import tqdm

        def track(steps: Sequence[list[int]]) -> Iterator[list[int]]:
            yield from tqdm(steps, desc=what, disable=not self._shown, leave=False)

        return track

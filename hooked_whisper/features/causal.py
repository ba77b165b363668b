"""Causal check of features: ablate or clamp a feature and measure the log-probabilities of words.

Changing a feature that merely correlates with a phone has no effect. Changing a feature that the model uses affects the
words that contain the phone more than others, and more than a random change of the same size.

Source: findings on phone features steer a feature and read transcripts. Here log-probabilities are compared, with a
random direction of matched norm as in :func:`hooked_whisper.interventions.steer.random_control`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import bar_chart
from hooked_whisper._support.plotly_figures import Backend
from hooked_whisper._support.showing import Summary, Tabular, counted
from hooked_whisper.errors import AlignmentError, PatchError, check_option
from hooked_whisper.interventions.forced_text import words_of_tokens
from hooked_whisper.interventions.steer import random_control
from hooked_whisper.patching.resume import locate, required_activations, resume_from
from hooked_whisper.patching.runs import RunInputs, cache_run
from hooked_whisper.protocols import Alignment, FeatureBasis

if TYPE_CHECKING:
    from hooked_whisper.hooked import HookedWhisper

Number = float | int
Where = Literal["everywhere", "phone"]
ROWS = 4  # changed runs per batch; each is a full window
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval95:
    """A mean and its 95 % bootstrap interval; NaN without data."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class WordEffect:
    """Log-probabilities (nats) of one word of the forced text: before and after changing a feature, and the control."""

    unit: int
    utterance: str
    word: str
    has_phone: bool
    before: float
    after: float
    control: float

    @property
    def change(self) -> float:
        return self.after - self.before

    @property
    def control_change(self) -> float:
        return self.control - self.before


@dataclass(frozen=True, eq=False, repr=False)
class CausalEffect(Tabular):
    """Effect of changing one feature.

    Attributes:
        with_phone, without_phone: mean change of words that contain the feature's phone, and of other words.
        difference: of the two; ``control_difference`` is that of the control.
        beyond_control: ``difference`` minus ``control_difference``.
        norm: mean norm of the change to the activation over changed positions; the control's is the same.
    """

    unit: int
    label: str
    phone: str
    with_phone: Interval95
    without_phone: Interval95
    difference: Interval95
    control_difference: Interval95
    beyond_control: Interval95
    norm: float
    words: tuple[WordEffect, ...]

    def _intervals(self) -> tuple[tuple[str, Interval95], ...]:
        return (
            (f"words with {self.phone}", self.with_phone),
            ("other words", self.without_phone),
            ("difference", self.difference),
            ("difference, random direction", self.control_difference),
            ("beyond the control", self.beyond_control),
        )

    def summary(self) -> Summary:
        title = f"CausalEffect: feature {self.label}, phone {self.phone}, {counted(len(self.words), 'word')}"
        notes = ("change of the words' log-probability (nats), with 95 % intervals",)
        rows = tuple((name, value.value, value.low, value.high) for name, value in self._intervals())
        return Summary(title, notes, ("words", "mean", "low", "high"), rows)

    def plot(self, title: str = "", *, backend: Backend = "matplotlib") -> Any:
        """Draw the mean changes as bars with their 95 % intervals. ``backend="plotly"`` returns a plotly figure."""
        intervals = self._intervals()
        return bar_chart(
            [name for name, _ in intervals],
            np.array([value.value for _, value in intervals], dtype=float),
            title=title or f"Effect of feature {self.label} on words with {self.phone}",
            unit="change of log-probability (nats)",
            intervals=np.array([(value.low, value.high) for _, value in intervals], dtype=float),
            facecolor="white",
            backend=backend,
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """One dict per word: unit, utterance, word, has_phone, before, change and control_change."""
        return [
            {
                "unit": w.unit,
                "utterance": w.utterance,
                "word": w.word,
                "has_phone": w.has_phone,
                "before": w.before,
                "change": w.change,
                "control_change": w.control_change,
            }
            for w in self.words
        ]


@torch.no_grad()
def causal_effects(
    model: HookedWhisper,
    mels: Float[Tensor, "clip mel frame"],
    alignments: Sequence[Alignment],
    name: str,
    basis: FeatureBasis,
    phone_of: Mapping[int, str],
    *,
    to: Number | Mapping[int, Number] = 0.0,
    where: Where = "everywhere",
    language: str = "en",
    seed: int = 0,
) -> tuple[CausalEffect, ...]:
    """Set each feature to a value, and compare words that contain its phone with words that do not.

    The encoder resumes after the changed point, and several features and their controls share a batch.

    Args:
        mels: full windows. The text of a clip's alignment is forced on the decoder.
        name: encoder point with one vector per position, such as ``encoder.blocks.2.mlp.hook_post``.
        basis: basis with orthonormal ``directions`` (:func:`hooked_whisper.features.axes`, ``random_orthonormal``,
            ``pca``). The change is along the feature's direction and leaves other features as they are.
        phone_of: phone of each feature to change.
        to: value for all features, or by feature: 0 or the mean over speech ablates, a large value clamps.
        where: ``"everywhere"`` changes all positions of the alignment, ``"phone"`` only those of the feature's phone.
        seed: of the control's random directions, one per feature. At each position the control's change has the size
            and sign of the feature's change.

    Raises:
        PatchError: ``name`` is not one encoder point, a feature does not exist, or the basis has no directions.
        AlignmentError: no clip has words and phones, or the numbers of alignments and clips differ.

    Returns:
        one effect per feature, in the order of ``phone_of``. A word contains a phone if the middle of the phone lies in
        the word. Intervals are from a bootstrap over clips.
    """
    check_option("where", where, get_args(Where), PatchError)
    directions = _directions(model, name, basis, phone_of)
    name = model.hook_names(name)[0]
    if len(mels) != len(alignments):
        raise AlignmentError(f"{len(mels)} clips but {len(alignments)} alignments: give one for each")
    if not any(a.words and a.phones for a in alignments):
        raise AlignmentError("no clip has words and phones with their times: align the clips first")
    units = list(phone_of)
    values = torch.tensor([float(to[u]) if isinstance(to, Mapping) else float(to) for u in units])
    others = torch.stack([random_control(d, seed + k) for k, d in enumerate(directions)])
    prompt = model.to_tokens("", language=language)
    effects: dict[int, list[WordEffect]] = {u: [] for u in units}
    clips: dict[int, list[int]] = {u: [] for u in units}
    sizes: dict[int, list[float]] = {u: [] for u in units}
    for number, (mel, alignment) in enumerate(zip(mels, alignments, strict=True)):
        if not alignment.words or not alignment.phones:
            continue
        text = " ".join(w.label for w in alignment.words)
        ids = model.tokenizer.encode(f" {text}")
        tokens = torch.cat([prompt, torch.tensor([ids], device=prompt.device)], dim=1)
        base = cache_run(model, RunInputs(tokens, mel=mel[None]), [name, *required_activations(model, name)])
        x = base[name]
        feature = basis.encode(x)[0][:, units].T  # [unit, position]
        changed_positions = torch.stack([_positions(model, alignment, phone_of[u], where) for u in units]).to(x.device)
        step = torch.where(changed_positions, values.to(x)[:, None] - feature, 0.0)
        of_word, start = words_of_tokens(model, ids), prompt.shape[1] - 1
        plain = _word_logprobs(model, base["unembed.hook_in"], ids, of_word, start)[0]
        changed = []
        for rows in (directions, others):
            new = x + step[..., None] * rows.to(x)[:, None]
            for start_row in range(0, len(units), ROWS):
                batch = {name: new[start_row : start_row + ROWS]}
                hidden = resume_from(model, base, batch, tokens, mel[None], base["encoder.hook_out"])
                changed.append(_word_logprobs(model, hidden, ids, of_word, start))
        both = np.concatenate(changed)
        after, control = both[: len(units)], both[len(units) :]
        for k, unit in enumerate(units):
            sizes[unit] += step[k][changed_positions[k]].abs().tolist()
            for w, word in enumerate(alignment.words):
                has_phone = phone_of[unit] in _phones_of(alignment, w)
                row = (float(plain[w]), float(after[k, w]), float(control[k, w]))
                effects[unit].append(WordEffect(unit, alignment.utterance, word.label, has_phone, *row))
                clips[unit].append(number)
    return tuple(
        _summary(u, str(basis.labels[u]), phone_of[u], effects[u], np.array(clips[u]), sizes[u], seed) for u in units
    )


def _directions(
    model: HookedWhisper, name: str, basis: FeatureBasis, phone_of: Mapping[int, str]
) -> Float[Tensor, "unit d"]:
    names = model.hook_names(name)
    if len(names) != 1 or locate(model, names[0])[0] != "encoder":
        raise PatchError(f"{name!r} is not one point of the encoder: give one such as encoder.blocks.2.mlp.hook_post")
    directions = getattr(basis, "directions", None)
    if directions is None:
        raise PatchError(f"a {type(basis).__name__} has no `directions`: use axes, pca or random_orthonormal")
    units = list(phone_of)
    if not units or min(units) < 0 or max(units) >= basis.n_features:
        raise PatchError(f"the features are {units}, expected 0 to {basis.n_features - 1}")
    return directions[units]  # type: ignore[no-any-return]


def _positions(model: HookedWhisper, alignment: Alignment, phone: str, where: Where) -> Bool[Tensor, "position"]:
    """Mask of the clip's positions, or of the positions that a phone overlaps."""
    time = model.time
    mask = torch.zeros(time.n_ctx, dtype=torch.bool)
    if where == "everywhere":
        mask[: time.n_positions(min(alignment.duration, time.duration))] = True
        return mask
    for interval in alignment.phones:
        if interval.label == phone and interval.start < time.duration:
            mask[time.span(interval.start, min(interval.end, time.duration), rounding="outer")] = True
    return mask


def _phones_of(alignment: Alignment, word: int) -> set[str]:
    """Phones whose middle is in a word."""
    span = alignment.words[word]
    return {p.label for p in alignment.phones if span.start <= (p.start + p.end) / 2 < span.end}


def _word_logprobs(
    model: HookedWhisper,
    hidden: Float[Tensor, "row token d_model"],
    ids: Sequence[int],
    of_word: Sequence[int],
    start: int,
) -> Float[np.ndarray, "row word"]:
    """Log-probability of each word of a forced text, summed over its tokens."""
    read = hidden[:, start : start + len(ids)]
    targets = torch.tensor(list(ids), device=hidden.device)[None, :, None].expand(len(read), -1, 1)
    logprobs = model.decoder.to_logits(read).log_softmax(-1).gather(-1, targets)[..., 0].double().cpu()
    words: Int[Tensor, "token"] = torch.tensor(list(of_word))
    sums = torch.zeros(len(read), int(words.max()) + 1, dtype=logprobs.dtype)
    return sums.index_add(1, words, logprobs).numpy()


def _summary(
    unit: int,
    label: str,
    phone: str,
    words: Sequence[WordEffect],
    clips: Int[np.ndarray, "word"],
    sizes: Sequence[float],
    seed: int,
) -> CausalEffect:
    has = np.array([w.has_phone for w in words])
    change = np.array([w.change for w in words])
    control = np.array([w.control_change for w in words])
    groups, index = np.unique(clips, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=RESAMPLES)
    weights = np.concatenate([np.ones((1, len(words))), drawn[:, index]])  # the first row is the data

    def mean(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        w = weights[:, rows]
        total = w.sum(1)
        return np.divide(w @ values[rows], total, out=np.full(len(w), np.nan), where=total > 0)

    with_phone, without = mean(change, has), mean(change, ~has)
    random = mean(control, has) - mean(control, ~has)
    difference = with_phone - without
    return CausalEffect(
        unit,
        label,
        phone,
        _interval(with_phone),
        _interval(without),
        _interval(difference),
        _interval(random),
        _interval(difference - random),
        float(np.mean(sizes)) if sizes else 0.0,
        tuple(words),
    )


def _interval(samples: Float[np.ndarray, "draw"]) -> Interval95:
    """Mean and interval from samples whose first entry is the data's value and the others are resamples."""
    known = samples[1:][np.isfinite(samples[1:])]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return Interval95(float(samples[0]), float(low), float(high))

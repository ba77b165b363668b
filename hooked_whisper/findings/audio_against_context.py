"""W2: the audio says one word, the word before calls for another. Which wins, and along which path?

Source: recipe for conflict patching (change the previous word in the decoder's input, audio fixed); the two kinds of
evidence are those of Langedijk et al. 2023 (arXiv 2310.03686) and of context mixing studies (arXiv 2310.09925).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper.errors import AudioError
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.figures import draw_controls
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Example, Measurement
from hooked_whisper.findings.core.statistics import cluster_rate
from hooked_whisper.findings.word_swap import mean_over_pairs
from hooked_whisper.findings.words import context_conflict
from hooked_whisper.findings.words.context_conflict import pooled
from hooked_whisper.findings.words.last_token import logit_difference, logits_at, patched_difference
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.baseline_inputs import baseline_encoding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "W2", "Audio against context"
CLAIM = (
    "When context and audio disagree, the decoder writes the word that was said, and the audio's evidence enters "
    "through cross-attention."
)
PROTOCOL = context_conflict.PROTOCOL
SYNTHETIC_PROTOCOL = (
    "Audio fixed, one word w of the decoder's input replaced by w', after which the grammar often has C and never A, "
    "the word that was said next. Metric: logit of A minus logit of C after w'. Neutral run: w in place; conflict run: "
    "w'; deaf run: w' and the encoder output of zero audio. Paths: outputs of one kind of part (cross-attention, "
    "self-attention, MLP in all blocks; the embedding), at the token w' alone, taken from the deaf run (what the audio "
    "brings along it) or from the neutral run (what w' brings along it) and put into the conflict run; share of the "
    "gap between the runs. Shares need not add up to 1: later parts answer to earlier ones. Intervals: 95 %, bootstrap "
    "over clips."
)
MOST, PER_CLIP, ROWS = 96, 2, 16
OFTEN = 0.2  # probability of C after w'
ENOUGH = 50
PATHS = {
    "embedding": "decoder.blocks.0.hook_resid_pre",
    "self-attention": "decoder.blocks.*.hook_attn_out",
    "cross-attention": "decoder.blocks.*.hook_cross_attn_out",
    "MLP": "decoder.blocks.*.hook_mlp_out",
}

FOLLOWS_AUDIO = "conflicts in which the word said beats the word called for"
FOLLOWS_WORD = "the same without audio: the word called for beats the word said"
BY_CROSS = "share of the audio's evidence through cross-attention at the token itself"


@dataclass(frozen=True)
class Conflict:
    """One item: utterance and the number of the word said (A); the word before, its replacement, and C."""

    clip: int
    index: int
    before: str
    replaced: str
    said: str
    called: str
    unrelated: str  # a word that the grammar never has after the replacement either


@dataclass(frozen=True, eq=False)
class Outcomes:
    """One row per item: logit differences of A to C (and to the unrelated word, deaf), top words, shares by path."""

    neutral: Float[np.ndarray, "item"]
    conflict: Float[np.ndarray, "item"]
    deaf: Float[np.ndarray, "item"]
    unrelated_deaf: Float[np.ndarray, "item"]
    top_is_said: Float[np.ndarray, "item"]
    audio: Float[np.ndarray, "item path"]
    word: Float[np.ndarray, "item path"]


def conflicts(context: Context, rng: np.random.Generator) -> list[Conflict]:
    """Items from utterances that the model transcribes without an error, at most two from each, none at its start."""
    truth = context.truth
    assert truth is not None
    number = {word: i for i, word in enumerate(truth.words)}
    found = []
    for clip, (said, wrote) in enumerate(zip(context.references, context.transcripts, strict=True)):
        words = said.split()
        if said != wrote or any(w not in number for w in words):
            continue
        for index in rng.permutation(np.arange(1, len(words)))[:PER_CLIP].tolist():
            a, w = number[words[index]], number[words[index - 1]]
            often = truth.row[:, : len(truth.words)] >= OFTEN
            often[truth.row[:, a] > 0] = False
            often[w], often[:, a] = False, False
            options = np.argwhere(often)
            if not len(options):
                continue
            other, c = options[rng.integers(len(options))]
            never = np.flatnonzero(truth.row[other, : len(truth.words)] == 0)
            free = [k for k in never.tolist() if k not in (a, c, int(other))]
            names = truth.words
            unrelated = names[int(rng.choice(free))]
            found.append(
                Conflict(clip, index, words[index - 1], names[int(other)], words[index], names[int(c)], unrelated)
            )
    return [found[i] for i in rng.permutation(len(found))[:MOST]]


@torch.no_grad()
def measure(
    context: Context,
    model: HookedWhisper,
    items: Sequence[Conflict],
    encoded: Float[Tensor, "clip position d_model"],
    paths: bool = True,
) -> Outcomes:
    """Decoder passes only, many items a batch; rows are padded on the right, which a causal decoder does not see."""
    silence = baseline_encoding(model, "zero audio")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in Outcomes.__dataclass_fields__}
    for at in range(0, len(items), ROWS):
        some = items[at : at + ROWS]
        heard = encoded[[one.clip for one in some]]
        tokens, last = _inputs(context, model, some, replaced=True)
        plain, _ = _inputs(context, model, some, replaced=False)
        here = torch.arange(tokens.shape[1], device=tokens.device) == last[:, None]  # [row, token]
        ids = torch.tensor(
            [[model.to_single_token(f" {w}") for w in (o.said, o.called, o.unrelated)] for o in some],
            device=tokens.device,
        )
        deaf_out = silence.expand(len(some), -1, -1)
        names = list(PATHS.values())
        neutral, from_neutral = model.run_with_cache(tokens=plain, encoder_out=heard, names_filter=names)
        deaf, from_deaf = model.run_with_cache(tokens=tokens, encoder_out=deaf_out, names_filter=names)
        logits = logits_at(model.logits(tokens, heard), here)
        ends = [logit_difference(x, ids) for x in (logits_at(neutral, here), logits, logits_at(deaf, here))]
        rows = {
            "neutral": ends[0],
            "conflict": ends[1],
            "deaf": ends[2],
            "unrelated_deaf": logit_difference(logits_at(deaf, here), ids[:, [0, 2]]),
            "top_is_said": (logits.argmax(-1) == ids[:, 0]).double(),
        }
        for what, cache, end in (("audio", from_deaf, ends[2]), ("word", from_neutral, ends[0])):
            if paths:
                moved = [patched_difference(model, name, cache, here, tokens, heard, ids) for name in PATHS.values()]
                rows[what] = torch.stack([(m - ends[1]) / (end - ends[1]) for m in moved], 1)
            else:
                rows[what] = torch.full((len(some), len(PATHS)), torch.nan)
        for name, values in rows.items():
            parts[name].append(values.double().cpu().numpy())
    return Outcomes(**{name: np.concatenate(values) for name, values in parts.items()})


def _inputs(
    context: Context, model: HookedWhisper, items: Sequence[Conflict], replaced: bool
) -> tuple[Int[Tensor, "row token"], Int[Tensor, "row"]]:
    """Prompt and the words before A, the last of them replaced or not; and the index of that last token."""
    prompt = context.transcriber(model).prompt()[0].tolist()
    rows = []
    for one in items:
        words = context.references[one.clip].split()[: one.index]
        words[-1] = one.replaced if replaced else one.before
        rows.append(prompt + [model.to_single_token(f" {w}") for w in words])
    longest = max(map(len, rows))
    padded = [row + [model.tokenizer.eot] * (longest - len(row)) for row in rows]
    return torch.tensor(padded, device=model.device), torch.tensor([len(r) - 1 for r in rows], device=model.device)


def run(context: Context) -> Finding:
    """Replaces the word before on the synthetic corpus; real Whisper hears sentences with an unexpected last word."""
    if context.truth is None:
        try:
            return context_conflict.run(context, {"id": ID, "title": TITLE, "claim": CLAIM})
        except AudioError as error:
            return _finding(context, reason=f"conflicts need the packaged speech ({error})")
    items = conflicts(context, context.rng("conflicts"))
    if not items:
        return _finding(
            context,
            reason="the model transcribes no clip without an error, so no word is known to be heard: use a model that "
            "transcribes this speech",
        )
    ours = measure(context, context.model, items, context.encoded)
    other = measure(context, context.model, items, context.encoded.roll(1, 0), paths=False)
    clips = sorted({one.clip for one in items[: 2 * ROWS]})
    few = [one for one in items if one.clip in clips]
    blank_out = torch.zeros_like(context.encoded)
    blank_out[clips] = context.encode(context.untrained, clips)
    blank = measure(context, context.untrained, few, blank_out, paths=False)
    return _finding(context, items, ours, other, (few, blank))


def _finding(
    context: Context,
    items: Sequence[Conflict] = (),
    ours: Outcomes | None = None,
    other: Outcomes | None = None,
    untrained: tuple[Sequence[Conflict], Outcomes] | None = None,
    reason: str = "",
) -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, SYNTHETIC_PROTOCOL),
        "parameters": {
            "items": MOST,
            "per_clip": PER_CLIP,
            "least_probability_of_c": OFTEN,
            "prompt_ids": context.transcriber().prompt()[0].tolist(),
        },
    }
    if ours is None or other is None or untrained is None:
        return Finding(**common, reason_untestable=reason)
    rng = context.rng("bootstrap of conflicts")
    clips = np.array([one.clip for one in items])
    few, blank = untrained
    few_clips = np.array([one.clip for one in few])
    cross = list(PATHS).index("cross-attention")

    def share(hits: Bool[np.ndarray, "item"], groups: Int[np.ndarray, "item"] = clips) -> Estimate:
        return cluster_rate(hits.astype(float), np.ones(len(hits)), groups, rng)

    criteria = (
        Criterion(FOLLOWS_AUDIO, share(ours.conflict > 0), 0.8, "at least"),
        Criterion(FOLLOWS_WORD, share(ours.deaf < 0), 0.8, "at least"),
        Criterion(BY_CROSS, pooled(ours.audio, ours.deaf - ours.conflict, rng)[cross], 0.5, "at least"),
        Criterion("conflicts", Estimate(len(items)), ENOUGH, "at least", role="gate"),
    )
    controls = (
        Control("audio of another clip", "the same words, other sound", {FOLLOWS_AUDIO: share(other.conflict > 0)}),
        Control(
            "unrelated word",
            "a word that the grammar never has there, in place of the one called for",
            {FOLLOWS_WORD: share(ours.unrelated_deaf < 0)},
        ),
        Control(
            "untrained model",
            f"random weights ({len(few)} conflicts)",
            {
                FOLLOWS_AUDIO: share(blank.conflict > 0, few_clips),
                FOLLOWS_WORD: share(blank.deaf < 0, few_clips),
            },
        ),
    )
    bounds = Axis("bound", ("value", "low", "high"))
    shares = [
        pooled(ours.audio, ours.deaf - ours.conflict, rng),
        pooled(ours.word, ours.neutral - ours.conflict, rng),
    ]
    levels = [mean_over_pairs(x, rng).row for x in (ours.neutral, ours.conflict, ours.deaf)]
    return Finding(
        **common,
        criteria=criteria,
        controls=controls,
        measurements=(
            Measurement(
                "share of the gap by path",
                (Axis("evidence", ("audio", "word before")), Axis("path", tuple(PATHS)), bounds),
                np.array([[e.row for e in row] for row in shares]),
            ),
            Measurement(
                "logit of the word said minus that of the word called for",
                (Axis("run", ("neutral", "conflict", "deaf")), bounds),
                np.array(levels),
                "logits",
            ),
        ),
        examples=_examples(context, items, ours),
        notes=(
            f"{len(items)} conflicts in {len(set(clips.tolist()))} clips; the word said is the likeliest of all tokens "
            f"in {ours.top_is_said.mean():.0%} of the conflicts.",
            "Whoever takes the word before from the conflict run changes where cross-attention looks, too: the query "
            "says which word comes next.",
        ),
    )


def _examples(context: Context, items: Sequence[Conflict], ours: Outcomes) -> tuple[Example, ...]:
    shown = []
    for k, one in enumerate(items[:4]):
        said = context.references[one.clip].split()
        given = " ".join([*said[: one.index - 1], one.replaced])
        wins = one.said if ours.conflict[k] > 0 else one.called
        rows = ((f"after '{given}'", f"{given} {wins}"),)
        utterance = context.utterances[one.clip]
        shown.append(Example(utterance.id, utterance.alignment.speaker, " ".join(said[: one.index + 1]), rows))
    return tuple(shown)


def draw(finding: Finding) -> list[Figure]:
    """Who wins, beside the controls; and along which path."""
    table = finding.measurement("share of the gap by path")
    paths = heat_map(
        table.at(bound="value"),
        title="Along which path",
        x="output taken over",
        y="evidence",
        unit="share of the gap",
        rows=[str(e) for e in table.axis("evidence").entries],
        columns=[str(e) for e in table.axis("path").entries],
        scale="diverging",
        texts=[[f"{v:.2f}" for v in row] for row in table.at(bound="value")],
    )
    return [draw_controls(finding, 0, "share of conflicts"), draw_controls(finding, 1, "share of conflicts"), paths]

"""W2: if the audio and the previous word predict different words, which one wins, and through which path?

This module tests the synthetic corpus; :mod:`.words.context_conflict` is the version for released models.

Method: change the previous word in the decoder's input and leave the audio as it is. The two kinds of evidence are
those of Langedijk et al. 2023 (arXiv 2310.03686) and of context mixing studies (arXiv 2310.09925).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Example, Measurement
from hooked_whisper.findings.core.statistics import cluster_rate
from hooked_whisper.findings.core.two_protocols import TwoProtocols
from hooked_whisper.findings.word_swap import mean_over_pairs
from hooked_whisper.findings.words.context_conflict import ContextConflicts, draw_conflicts, pooled
from hooked_whisper.findings.words.last_token import logit_difference, logits_at, patched_difference
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.baseline_inputs import baseline_encoding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST, PER_CLIP, ROWS = 96, 2, 16
OFTEN = 0.2  # least probability of C after the replacement w'
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
    """A word of an utterance whose previous word is replaced by one that predicts another word.

    Attributes:
        clip, index: the utterance, and the index of the word that is said (A).
        before, replaced: the word before A, and its replacement.
        said, called: A, and a word that is likely after the replacement (C).
        unrelated: a word that never follows the replacement in the grammar.
    """

    clip: int
    index: int
    before: str
    replaced: str
    said: str
    called: str
    unrelated: str


@dataclass(frozen=True, eq=False)
class ConflictRuns:
    """Logit differences and patching effects, one per conflict.

    Attributes:
        neutral, conflict, deaf: logit of A minus logit of C in each run.
        unrelated_deaf: logit of A minus logit of the unrelated word in the deaf run.
        top_is_said: 1 if A is the most likely token in the conflict run, else 0.
        audio, word: share of the gap that each path carries, for the evidence of the audio and of the previous word.
    """

    neutral: Float[np.ndarray, "item"]
    conflict: Float[np.ndarray, "item"]
    deaf: Float[np.ndarray, "item"]
    unrelated_deaf: Float[np.ndarray, "item"]
    top_is_said: Float[np.ndarray, "item"]
    audio: Float[np.ndarray, "item path"]
    word: Float[np.ndarray, "item path"]


def find_conflicts(context: Context, rng: np.random.Generator) -> list[Conflict]:
    """Return conflicts in utterances that the model transcribes without an error.

    There are at most two per utterance, and none at its first word.
    """
    truth = context.truth
    assert truth is not None
    number = {word: i for i, word in enumerate(truth.words)}
    names = truth.words
    conflicts = []
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
            unrelated = names[int(rng.choice(free))]
            conflicts.append(
                Conflict(clip, index, words[index - 1], names[int(other)], words[index], names[int(c)], unrelated)
            )
    return [conflicts[i] for i in rng.permutation(len(conflicts))[:MOST]]


@torch.no_grad()
def run_conflicts(
    context: Context,
    model: HookedWhisper,
    conflicts: Sequence[Conflict],
    encoded: Float[Tensor, "clip position d_model"],
    paths: bool = True,
) -> ConflictRuns:
    """Run the decoder on each conflict, in batches. ``paths=False`` leaves out the patched runs.

    Rows are padded on the right, which does not change the logits of a causal decoder.
    """
    silence = baseline_encoding(model, "zero audio")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ConflictRuns.__dataclass_fields__}
    names = list(PATHS.values())
    for start in range(0, len(conflicts), ROWS):
        batch = conflicts[start : start + ROWS]
        heard = encoded[[conflict.clip for conflict in batch]]
        tokens, last = _inputs(context, model, batch, replaced=True)
        plain, _ = _inputs(context, model, batch, replaced=False)
        here = torch.arange(tokens.shape[1], device=tokens.device) == last[:, None]  # [row, token]
        ids = torch.tensor(
            [[model.to_single_token(f" {w}") for w in (c.said, c.called, c.unrelated)] for c in batch],
            device=tokens.device,
        )
        deaf_out = silence.expand(len(batch), -1, -1)
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
        for evidence, cache, end in (("audio", from_deaf, ends[2]), ("word", from_neutral, ends[0])):
            if paths:
                patched = [patched_difference(model, name, cache, here, tokens, heard, ids) for name in names]
                rows[evidence] = torch.stack([(p - ends[1]) / (end - ends[1]) for p in patched], 1)
            else:
                rows[evidence] = torch.full((len(batch), len(PATHS)), torch.nan)
        for name, values in rows.items():
            columns[name].append(values.double().cpu().numpy())
    return ConflictRuns(**{name: np.concatenate(values) for name, values in columns.items()})


def _inputs(
    context: Context, model: HookedWhisper, conflicts: Sequence[Conflict], replaced: bool
) -> tuple[Int[Tensor, "row token"], Int[Tensor, "row"]]:
    """Return the prompt and the words before A, with the last word ``replaced`` or not, and the index of its token."""
    prompt = context.transcriber(model).prompt()[0].tolist()
    rows = []
    for conflict in conflicts:
        words = context.references[conflict.clip].split()[: conflict.index]
        words[-1] = conflict.replaced if replaced else conflict.before
        rows.append(prompt + [model.to_single_token(f" {w}") for w in words])
    longest = max(map(len, rows))
    padded = [row + [model.tokenizer.eot] * (longest - len(row)) for row in rows]
    return torch.tensor(padded, device=model.device), torch.tensor([len(r) - 1 for r in rows], device=model.device)


@dataclass(frozen=True, eq=False)
class SyntheticConflictRuns:
    """All runs of the experiment.

    Attributes:
        clips: utterance of each conflict.
        runs: runs with each conflict's audio. other_audio: runs with the audio of another clip.
        untrained_clips, untrained: utterances and runs of the first conflicts on the untrained model.
        examples: a few conflicts.
    """

    clips: Int[np.ndarray, "item"]
    runs: ConflictRuns
    other_audio: ConflictRuns
    untrained_clips: Int[np.ndarray, "few"]
    untrained: ConflictRuns
    examples: tuple[Example, ...]


class SyntheticConflicts(Experiment[SyntheticConflictRuns]):
    """W2 on the synthetic corpus: the previous word is replaced by a word that predicts another one."""

    id, title, claim = ContextConflicts.id, ContextConflicts.title, ContextConflicts.claim
    protocol = (
        "The audio stays the same, and one word w of the decoder's input is replaced by w'. In the grammar, w' is "
        "often followed by C and never by A, the word that is said next. Metric: logit of A minus logit of C after w'. "
        "Neutral run: w; conflict run: w'; deaf run: w' and the encoder output of zero audio. A path is the output of "
        "one kind of component (cross-attention, self-attention or MLP in all blocks, or the embedding) at the token "
        "w' only. It is taken from the deaf run (evidence of the audio) or from the neutral run (evidence of w') and "
        "patched into the conflict run; reported is the share of the gap between the two runs. The shares need not add "
        "up to 1, because later components depend on earlier ones. Intervals: 95 %, bootstrap over clips."
    )
    own_speech = True

    def parameters(self, context: Context) -> dict[str, Any]:
        return {
            "items": MOST,
            "per_clip": PER_CLIP,
            "least_probability_of_c": OFTEN,
            "prompt_ids": context.transcriber().prompt()[0].tolist(),
        }

    def measure(self, context: Context) -> SyntheticConflictRuns:
        """Run the decoder on each conflict with its audio and with another clip's, and the untrained model on some."""
        conflicts = find_conflicts(context, context.rng("conflicts"))
        if not conflicts:
            raise Untestable(
                "the model transcribes no clip without an error, and conflicts are made from such clips: use a model "
                "that transcribes this speech"
            )
        runs = run_conflicts(context, context.model, conflicts, context.encoded)
        other_audio = run_conflicts(context, context.model, conflicts, context.encoded.roll(1, 0), paths=False)
        clips = sorted({conflict.clip for conflict in conflicts[: 2 * ROWS]})
        few = [conflict for conflict in conflicts if conflict.clip in clips]
        encoded = torch.zeros_like(context.encoded)
        encoded[clips] = context.encode(context.untrained, clips)
        return SyntheticConflictRuns(
            np.array([conflict.clip for conflict in conflicts]),
            runs,
            other_audio,
            np.array([conflict.clip for conflict in few]),
            run_conflicts(context, context.untrained, few, encoded, paths=False),
            _examples(context, conflicts, runs),
        )

    def judge(self, measured: SyntheticConflictRuns, setting: Setting) -> Finding:
        runs, clips, untrained = measured.runs, measured.clips, measured.untrained
        rng = setting.rng("bootstrap of conflicts")
        cross = list(PATHS).index("cross-attention")

        def share(hits: Bool[np.ndarray, "item"], groups: Int[np.ndarray, "item"] = clips) -> Estimate:
            return cluster_rate(hits.astype(float), np.ones(len(hits)), groups, rng)

        criteria = (
            Criterion(FOLLOWS_AUDIO, share(runs.conflict > 0), 0.8, "at least"),
            Criterion(FOLLOWS_WORD, share(runs.deaf < 0), 0.8, "at least"),
            Criterion(BY_CROSS, pooled(runs.audio, runs.deaf - runs.conflict, rng)[cross], 0.5, "at least"),
            Criterion("conflicts", Estimate(len(clips)), ENOUGH, "at least", role="gate"),
        )
        controls = (
            Control(
                "audio of another clip",
                "the same words with the audio of another clip",
                {FOLLOWS_AUDIO: share(measured.other_audio.conflict > 0)},
            ),
            Control(
                "unrelated word",
                "a word that never follows in the grammar, in place of the predicted one",
                {FOLLOWS_WORD: share(runs.unrelated_deaf < 0)},
            ),
            Control(
                "untrained model",
                f"random weights ({len(measured.untrained_clips)} conflicts)",
                {
                    FOLLOWS_AUDIO: share(untrained.conflict > 0, measured.untrained_clips),
                    FOLLOWS_WORD: share(untrained.deaf < 0, measured.untrained_clips),
                },
            ),
        )
        bounds = Axis("bound", ("value", "low", "high"))
        shares = [
            pooled(runs.audio, runs.deaf - runs.conflict, rng),
            pooled(runs.word, runs.neutral - runs.conflict, rng),
        ]
        levels = [mean_over_pairs(x, rng).row for x in (runs.neutral, runs.conflict, runs.deaf)]
        return self.finding(
            setting,
            criteria=criteria,
            controls=controls,
            measurements=(
                Measurement(
                    "share of the gap by path",
                    (Axis("evidence", ("audio", "word before")), Axis("path", tuple(PATHS)), bounds),
                    np.array([[estimate.row for estimate in row] for row in shares]),
                ),
                Measurement(
                    "logit of the word said minus that of the word called for",
                    (Axis("run", ("neutral", "conflict", "deaf")), bounds),
                    np.array(levels),
                    "logits",
                ),
            ),
            examples=measured.examples,
            notes=(
                f"{len(clips)} conflicts in {len(set(clips.tolist()))} clips. The word said is the most likely of all "
                f"tokens in {runs.top_is_said.mean():.0%} of the conflicts.",
                "Patching the self-attention or the embedding also changes where cross-attention looks, because its "
                "query depends on the expected next word.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        return draw_conflicts(finding)


class AudioAgainstContext(TwoProtocols):
    """W2: audio against context, on the synthetic corpus or on the packaged speech."""

    organism, released = SyntheticConflicts(), ContextConflicts()
    released_measurement = "last word of the transcript"
    own_speech = True


def _examples(context: Context, conflicts: Sequence[Conflict], runs: ConflictRuns) -> tuple[Example, ...]:
    examples = []
    for conflict, difference in list(zip(conflicts, runs.conflict, strict=True))[:4]:
        said = context.references[conflict.clip].split()
        before = " ".join([*said[: conflict.index - 1], conflict.replaced])
        winner = conflict.said if difference > 0 else conflict.called
        rows = ((f"after '{before}'", f"{before} {winner}"),)
        clip = context.utterances[conflict.clip]
        reference = " ".join(said[: conflict.index + 1])
        examples.append(Example(clip.id, clip.alignment.speaker, reference, rows))
    return tuple(examples)

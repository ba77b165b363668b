"""W2 on released models: which word wins if the audio ends in one word and the context predicts another?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked_whisper._support.heatmap import heat_map
from hooked_whisper.corpora.packaged import ConflictPair, conflict_pairs
from hooked_whisper.errors import AudioError
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.figures import draw_controls
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Example, Measurement
from hooked_whisper.findings.core.statistics import bootstrap
from hooked_whisper.findings.core.transcripts import Transcriber
from hooked_whisper.findings.words.encode import encode_recordings
from hooked_whisper.findings.words.last_token import logit_difference, logits_at
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.hooks import HookPoint
from hooked_whisper.interventions.baseline_inputs import baseline_encoding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATHS = {
    "self-attention": "decoder.blocks.*.hook_attn_out",
    "cross-attention": "decoder.blocks.*.hook_cross_attn_out",
    "MLP": "decoder.blocks.*.hook_mlp_out",
}
ROWS = 16  # sentences per batch of the decoder
UNTRAINED, EXPECTED = 16, 16  # sentences for the untrained model, and recordings that end in C
MOST_TOKENS = 32  # token limit for the transcript of one sentence
DRAWS = 1000  # of the bootstrap

FOLLOWS_AUDIO = "sentences in which the word said beats the word called for"
FOLLOWS_CONTEXT = "the same without audio: the word called for beats the word said"
BY_CROSS = "share of the audio's evidence through cross-attention at the token itself"

# Thresholds are those of the test on the synthetic corpus, fixed before the first run on a released model. The first
# two are shares of paired comparisons with a chance level of 0.5. A share of 0.8 is more than 3 standard errors above
# chance with 50 sentences, and means that the rule holds four times out of five. BY_CROSS requires that more of the
# evidence enters at this token than at all other tokens. The 95 sentences are cloze sentences that people complete with
# C, so C does not depend on what the model finds likely.
THRESHOLDS = {FOLLOWS_AUDIO: 0.8, FOLLOWS_CONTEXT: 0.8, BY_CROSS: 0.5}
ENOUGH = 50  # sentences


@dataclass(frozen=True, eq=False)
class SentenceRuns:
    """Results of the runs, one per sentence.

    Attributes:
        audio, deaf: logit of A minus logit of C, with and without the audio.
        unrelated_deaf: logit of A minus logit of a word that another sentence predicts, without the audio.
        shares: share of the gap that each path carries; NaN if not measured.
    """

    audio: Float[np.ndarray, "sentence"]
    deaf: Float[np.ndarray, "sentence"]
    unrelated_deaf: Float[np.ndarray, "sentence"]
    shares: Float[np.ndarray, "sentence path"]


@torch.no_grad()
def run_sentences(
    model: HookedWhisper,
    pairs: Sequence[ConflictPair],
    encoded: Float[Tensor, "sentence position d_model"],
    others: Int[np.ndarray, "sentence"],
    paths: bool = True,
) -> SentenceRuns:
    """Run the decoder on each sentence.

    Args:
        others: index of an unrelated sentence for each sentence.
        paths: whether to run the patched runs too.
    """
    silence = baseline_encoding(model, "zero audio")
    ids = word_ids(model, pairs)
    ids = torch.cat([ids, ids[torch.from_numpy(others), 1:]], dim=1)  # said, called for, called for elsewhere
    parts: list[tuple[np.ndarray, ...]] = []
    names = list(PATHS.values())
    for start in range(0, len(pairs), ROWS):
        rows = slice(start, start + ROWS)
        tokens, here = inputs(model, pairs[rows])
        logits, cache = model.run_with_cache(tokens=tokens, encoder_out=silence, names_filter=names)
        without = logits_at(logits, here)
        deaf = logit_difference(without, ids[rows])
        runs = [
            _runs_with_audio(model, tokens[k, : last + 1], heard, {name: cache[name][k, last] for name in cache}, paths)
            for k, (heard, last) in enumerate(zip(encoded[rows], here.int().argmax(1).tolist(), strict=True))
        ]
        # the run with audio, then one run for each path
        audio, *patched = (logit_difference(x, ids[rows]) for x in torch.stack(runs, dim=1))
        shares = torch.full((len(tokens), len(PATHS)), torch.nan, dtype=torch.float64)
        if paths:
            shares = torch.stack([(value - audio) / (deaf - audio) for value in patched], 1)
        unrelated = logit_difference(without, ids[rows][:, [0, 2]])
        parts.append(tuple(x.cpu().numpy() for x in (audio, deaf, unrelated, shares)))
    return SentenceRuns(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _runs_with_audio(
    model: HookedWhisper,
    tokens: Int[Tensor, "token"],
    heard: Float[Tensor, "position d_model"],
    without: dict[str, Float[Tensor, "d_model"]],
    paths: bool,
) -> Float[Tensor, "run vocab"]:
    """Return the logits at the last token of a sentence with its audio and, if ``paths``, with each path's outputs at
    that token patched from the run without audio. All runs share the keys and values of one encoder output."""
    row_of = {path: row for row, path in enumerate(PATHS.values(), 1)}

    def patch(x: Tensor, hook: HookPoint) -> Tensor:
        x = x.clone()
        [row] = [row for path, row in row_of.items() if hook.name.endswith(path.removeprefix("decoder.blocks.*"))]
        x[row, -1] = without[hook.name]
        return x

    hooks = [(path, patch) for path in row_of] if paths else []
    with model.hooks(fwd_hooks=hooks):
        hidden = model.decoder.hidden(tokens.expand(1 + len(hooks), -1), heard[None])
    return model.decoder.to_logits(hidden[:, -1:])[:, 0]


def word_ids(model: HookedWhisper, pairs: Sequence[ConflictPair]) -> Int[Tensor, "sentence two"]:
    """Return the tokens of the word said and of the expected word."""
    return torch.tensor(
        [[model.to_single_token(f" {word}") for word in reversed(pair.words)] for pair in pairs], device=model.device
    )


def inputs(
    model: HookedWhisper, pairs: Sequence[ConflictPair]
) -> tuple[Int[Tensor, "row token"], Bool[Tensor, "row token"]]:
    """Return the prompt and context of each sentence, padded on the right (which does not change the logits of a causal
    decoder), and a mask of each row's last token."""
    prompt = Transcriber(model).prompt()[0].tolist()
    rows = [prompt + model.to_tokens(f" {pair.context}", prompt=False)[0].tolist() for pair in pairs]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [model.tokenizer.eot] * (longest - len(row)) for row in rows], device=model.device)
    last = torch.tensor([len(row) - 1 for row in rows], device=model.device)
    return tokens, torch.arange(longest, device=model.device) == last[:, None]


def last_words(
    model: HookedWhisper, pairs: Sequence[ConflictPair], encoded: Float[Tensor, "sentence position d"]
) -> list[str]:
    """Return the last word that the model writes for each recording, normalized."""
    texts = Transcriber(model, "en", MOST_TOKENS)(encoded)
    return [(text.split() or [""])[-1] for text in texts]


@dataclass(frozen=True, eq=False)
class ContextConflictRuns:
    """Runs of all sentences.

    Attributes:
        runs: runs with the recording that ends in A. other_audio: runs with the recording of another sentence.
        expected: runs of the first sentences with the recording that ends in C.
        untrained: runs of the first sentences on the untrained model.
        last_words: last word of each transcript.
    """

    pairs: tuple[ConflictPair, ...]
    runs: SentenceRuns
    other_audio: SentenceRuns
    expected: SentenceRuns
    untrained: SentenceRuns
    last_words: tuple[str, ...]


class ContextConflicts(Experiment[ContextConflictRuns]):
    """W2 on released models, with sentences of the packaged speech that end in an unexpected word."""

    id, title = "W2", "Audio against context"
    claim = (
        "When context and audio disagree, the decoder writes the word that was said, and the audio's evidence enters "
        "through cross-attention."
    )
    protocol = (
        "The context of each sentence predicts a last word (C), but the sentence is spoken with another, equally "
        "common word (A) in its place. The decoder reads the sentence up to that word. Metric: logit of A minus logit "
        "of C. Audio run: the recording that ends in A. Run without audio: the encoder's output for 30 s of zero "
        "samples. A path is the output of one kind of component (self-attention, cross-attention or MLP, in all "
        "blocks) at the last token. It is taken from the run without audio and patched into the audio run; reported "
        "is the share of the gap between the two runs. The shares need not add up to 1, because later components "
        "depend on earlier ones. All recordings are used, whether or not the model transcribes them correctly. "
        "Intervals: 95 %, bootstrap over sentences."
    )
    own_speech = True

    def parameters(self, context: Context) -> dict[str, Any]:
        return {
            "prompt_ids": Transcriber(context.model).prompt()[0].tolist(),
            "untrained_sentences": UNTRAINED,
            "recordings_that_end_in_c": EXPECTED,
        }

    def measure(self, context: Context) -> ContextConflictRuns:
        """Run one encoder pass for each recording that ends in A and a few for the controls, and the decoder on all
        sentences."""
        model, untrained = context.model, context.untrained
        try:
            pairs = conflict_pairs()
        except AudioError as error:
            raise Untestable(f"conflicts need the packaged speech ({error})") from error
        others = np.roll(np.arange(len(pairs)), 1)
        encoded = encode_recordings(context, model, [pair.other for pair in pairs], "W2 encoding")
        few, few_untrained = pairs[:EXPECTED], pairs[:UNTRAINED]
        expected = encode_recordings(context, model, [pair.expected for pair in few], "W2 encoding")
        blank = encode_recordings(context, untrained, [pair.other for pair in few_untrained], "W2 encoding")
        return ContextConflictRuns(
            tuple(pairs),
            run_sentences(model, pairs, encoded, others),
            run_sentences(model, pairs, encoded.roll(1, 0), others, paths=False),
            run_sentences(model, few, expected, np.roll(np.arange(len(few)), 1), paths=False),
            run_sentences(untrained, few_untrained, blank, np.roll(np.arange(len(few_untrained)), 1), paths=False),
            tuple(last_words(model, pairs, encoded)),
        )

    def judge(self, measured: ContextConflictRuns, setting: Setting) -> Finding:
        pairs, runs, untrained = measured.pairs, measured.runs, measured.untrained
        rng = setting.rng("bootstrap of conflicts")
        shares = pooled(runs.shares, runs.deaf - runs.audio, rng)
        estimates = {
            FOLLOWS_AUDIO: mean_of(runs.audio > 0, rng),
            FOLLOWS_CONTEXT: mean_of(runs.deaf < 0, rng),
            BY_CROSS: shares[list(PATHS).index("cross-attention")],
        }
        bounds = Axis("bound", ("value", "low", "high"))
        levels = {"audio ends in A": runs.audio, "audio ends in C": measured.expected.audio, "no audio": runs.deaf}
        written = {
            name: np.array([w == p.words[k].lower() for w, p in zip(measured.last_words, pairs, strict=True)])
            for k, name in ((1, "the word said"), (0, "the word called for"))
        }
        written["another word"] = ~(written["the word said"] | written["the word called for"])
        return self.finding(
            setting,
            inputs={
                "origin": "packaged speech, sentences with an unexpected last word",
                "sentences": len(pairs),
                "speakers": sorted({pair.other.speaker for pair in pairs}),
                "seed": setting.seed,
            },
            criteria=(
                *(Criterion(name, estimates[name], threshold, "at least") for name, threshold in THRESHOLDS.items()),
                Criterion("sentences", Estimate(len(pairs)), ENOUGH, "at least", role="gate"),
            ),
            controls=(
                Control(
                    "audio of another sentence",
                    "the same context with the recording of another sentence",
                    {FOLLOWS_AUDIO: mean_of(measured.other_audio.audio > 0, rng)},
                ),
                Control(
                    "unrelated word",
                    "the expected word of another sentence in place of C",
                    {FOLLOWS_CONTEXT: mean_of(runs.unrelated_deaf < 0, rng)},
                ),
                Control(
                    "untrained model",
                    f"random weights ({len(untrained.audio)} sentences)",
                    {
                        FOLLOWS_AUDIO: mean_of(untrained.audio > 0, rng),
                        FOLLOWS_CONTEXT: mean_of(untrained.deaf < 0, rng),
                    },
                ),
            ),
            measurements=(
                Measurement(
                    "share of the gap by path",
                    (Axis("evidence", ("audio",)), Axis("path", tuple(PATHS)), bounds),
                    np.array([[estimate.row for estimate in shares]]),
                ),
                Measurement(
                    "logit of the word said minus that of the word called for",
                    (Axis("run", tuple(levels)), bounds),
                    np.array([mean_of(values, rng).row for values in levels.values()]),
                    "logits",
                ),
                Measurement(
                    "last word of the transcript",
                    (Axis("word", tuple(written)), bounds),
                    np.array([mean_of(mask, rng).row for mask in written.values()]),
                ),
            ),
            examples=_examples(pairs, measured.last_words),
            notes=(
                f"In free transcription of the {len(pairs)} recordings, the last word is the word said in "
                f"{written['the word said'].mean():.0%}, the expected word in "
                f"{written['the word called for'].mean():.0%}, and another word in "
                f"{written['another word'].mean():.0%}.",
                "The word said is the last word of its sentence. It is as common as the expected word and starts with "
                "another phone.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        return draw_conflicts(finding)


def draw_conflicts(finding: Finding) -> list[Figure]:
    """Draw the two rates and their controls, and the share of each path."""
    table = finding.measurement("share of the gap by path")
    paths = heat_map(
        table.at(bound="value"),
        title="Share of the evidence by path",
        x="patched output",
        y="evidence",
        unit="share of the gap",
        rows=[str(e) for e in table.axis("evidence").entries],
        columns=[str(e) for e in table.axis("path").entries],
        scale="diverging",
        texts=[[f"{v:.2f}" for v in row] for row in table.at(bound="value")],
    )
    return [draw_controls(finding, 0, "share of conflicts"), draw_controls(finding, 1, "share of conflicts"), paths]


def mean_of(values: Float[np.ndarray, "n"] | Bool[np.ndarray, "n"], rng: np.random.Generator) -> Estimate:
    """Return the mean, with a bootstrap over the values."""
    numbers = np.asarray(values, dtype=float)
    return Estimate.of(
        float(numbers.mean()), bootstrap(len(numbers), lambda drawn: float(numbers[drawn].mean()), rng, DRAWS)
    )


def pooled(
    shares: Float[np.ndarray, "item path"], gap: Float[np.ndarray, "item"], rng: np.random.Generator
) -> list[Estimate]:
    """Return the mean share of each path, weighted by the gap, because the shares of small gaps are mostly noise."""
    effects = shares * gap[:, None]
    drawn = rng.integers(len(gap), size=(DRAWS, len(gap)))
    samples = effects[drawn].sum(1) / gap[drawn].sum(1)[:, None]
    return [Estimate.of(effects[:, k].sum() / gap.sum(), samples[:, k]) for k in range(shares.shape[1])]


def _examples(pairs: Sequence[ConflictPair], wrote: Sequence[str]) -> tuple[Example, ...]:
    return tuple(
        Example(
            pair.other.id,
            pair.other.speaker,
            pair.other.text,
            ((f"expected '{pair.words[0]}'", f"{pair.context} {word}"),),
        )
        for pair, word in list(zip(pairs, wrote, strict=True))[:4]
    )

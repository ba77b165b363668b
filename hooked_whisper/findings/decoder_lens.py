"""L2: what does the decoder write if it reads an earlier block of the encoder?

Source: Langedijk, Mohebbi, Sarti, Zuidema and Jumelet 2023, "DecoderLens: Layerwise Interpretation of Encoder-Decoder
Transformers", arXiv 2310.03686.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_whisper._support.showing import visible
from hooked_whisper.analysis import decoder_lens, encoder_layers
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.figures import (
    BLUE,
    GRAY,
    GREEN,
    add_legend,
    alt_text,
    draw_bars,
    draw_controls,
    new_figure,
)
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Example, Measurement, Table
from hooked_whisper.findings.core.statistics import cluster_rate
from hooked_whisper.findings.core.transcripts import errors_of, normalize_words
from hooked_whisper.hooked import HookedWhisper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLIPS, UNTRAINED_CLIPS, ENOUGH_CLIPS = 30, 6, 20
N_EXAMPLES = 3
DRAWS = 1000
MOST_SHOWN = 1.6  # largest WER in the figure: random weights write endless texts

# Thresholds, fixed before the first run with these statistics.
# Order: Spearman's correlation, used at first, cannot reach 0.9 if several blocks are unreadable and tie (at most 0.71
#   if only the last of five is readable). Gamma ignores ties: it is 1 if no block is harder to read than an earlier
#   one, 0 on average for blocks in random order, and undefined (not met) if no block can be read. 0.9 allows one wrong
#   pair in twenty.
# Early words: the paper does not claim an order, but that low and intermediate layers already solve parts of the task.
#   "Parts" is taken to mean at least a tenth of the words. Words that the decoder guesses from the previous words are
#   already right at the embedding and do not count.
# Gain: since the run on human speech, a WER counts as at most 1. A text that is too long is no less readable than one
#   that is entirely wrong; through length alone, the control with texts of other clips had gained 0.57.
UNREADABLE = 0.9  # least WER of a layer that cannot be read
ORDER = "order of the blocks by readability (gamma)"
EARLY = "tokens decided in a block before the last"
BLANK = "WER before the first block"
GAIN = "WER before the first block minus WER after the last, each at most 1"


@dataclass(frozen=True, eq=False)
class LensReadings:
    """The decoder's readings of every encoder layer.

    Attributes:
        texts: texts by layer and clip.
        log_prob, rank, entropy: of each token of the true texts, including the end of text.
        clip_of: clip of each token. labels: text of each token.
    """

    layers: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    log_prob: Float[np.ndarray, "layer token"]
    rank: Int[np.ndarray, "layer token"]
    entropy: Float[np.ndarray, "layer token"]
    clip_of: Int[np.ndarray, "token"]
    labels: tuple[str, ...]


def text_tokens(
    context: Context, model: HookedWhisper, indices: Sequence[int]
) -> tuple[Int[Tensor, "clip token"], list[int]]:
    """Return prompt, text and end-of-text of utterances, padded with end-of-text, and the number of tokens of each
    text."""
    prompt = context.transcriber(model).prompt()[0].tolist()
    texts = [model.to_tokens(f" {context.references[i]}", prompt=False)[0].tolist() for i in indices]
    eot = model.tokenizer.eot
    longest = max(map(len, texts))
    rows = [prompt + t + [eot] * (1 + longest - len(t)) for t in texts]
    return torch.tensor(rows, device=model.device), [len(t) for t in texts]


def read_layers(context: Context, model: HookedWhisper, indices: Sequence[int], label: str) -> LensReadings:
    """Encode each utterance once, and decode all layers of a batch of clips together. The progress bar is called
    ``label``."""
    transcriber = context.transcriber(model)
    n_prompt, longest = transcriber.prompt().shape[1], transcriber.max_new_tokens
    texts: list[list[str]] = []
    rows: list[tuple[np.ndarray, ...]] = []
    clips: list[int] = []
    labels: list[str] = []
    layers: tuple[str, ...] = ()
    for batch in context.track(context.batches(indices), label):
        tokens, lengths = text_tokens(context, model, batch)
        heard = encoder_layers(model, context.mels(batch))
        lens = decoder_lens(model, tokens[:, :-1], heard, n_prompt, targets=tokens[:, 1:], max_new_tokens=longest)
        layers = lens.layers
        texts = [
            [*before, *map(normalize_words, new)]
            for before, new in zip(texts or [[] for _ in layers], lens.texts, strict=True)
        ]
        for row, (clip, length) in enumerate(zip(batch, lengths, strict=True)):
            span = slice(n_prompt - 1, n_prompt + length)  # the positions that predict the text's tokens and its end
            rows.append(tuple(x[:, row, span].cpu().numpy() for x in (lens.log_prob, lens.rank, lens.entropy)))
            clips += [clip] * (length + 1)
            labels += model.to_str_tokens(tokens[row, n_prompt : n_prompt + length + 1])
    log_prob, rank, entropy = (np.concatenate(parts, axis=1) for parts in zip(*rows, strict=True))
    return LensReadings(layers, tuple(map(tuple, texts)), log_prob, rank, entropy, np.array(clips), tuple(labels))


class ErrorCurve:
    """WER by layer, with bootstrap resamples of the clips that are the same for every layer."""

    def __init__(self, references: Sequence[str], lens: LensReadings, rng: np.random.Generator) -> None:
        errors = [errors_of(references, texts) for texts in lens.texts]
        wrong = np.array([[e.errors for e in row] for row in errors])  # [layer, clip]
        words = np.array([e.n_reference for e in errors[0]])
        drawn = rng.integers(len(words), size=(DRAWS, len(words)))
        self.wer = wrong.sum(1) / max(words.sum(), 1)
        self.samples = np.stack([row[drawn].sum(1) / np.maximum(words[drawn].sum(1), 1) for row in wrong], axis=1)

    def in_random_order(self, rng: np.random.Generator) -> Estimate:
        """Return :data:`ORDER` for shuffled blocks: the mean, and the interval that holds 95 % of the shuffles."""
        samples = gamma(rng.permuted(np.repeat(self.wer[None], DRAWS, axis=0), axis=1))
        return Estimate.of(float(samples.mean()), samples)

    def at(self, layer: int) -> Estimate:
        return Estimate.of(self.wer[layer], self.samples[:, layer])

    def statistics(self) -> dict[str, Estimate]:
        wer, samples = np.minimum(self.wer, 1.0), np.minimum(self.samples, 1.0)
        return {
            ORDER: Estimate.of(float(gamma(self.wer[None])[0]), gamma(self.samples)),
            BLANK: self.at(0),
            GAIN: Estimate.of(wer[0] - wer[-1], samples[:, 0] - samples[:, -1]),
        }


def gamma(wer: Float[np.ndarray, "row layer"]) -> Float[np.ndarray, "row"]:
    """Return Goodman and Kruskal's gamma of layer and readability for each row, or NaN if all layers are equally
    readable."""
    capped = np.minimum(wer, UNREADABLE)
    early, late = np.triu_indices(wer.shape[1], 1)
    change = np.sign(capped[:, early] - capped[:, late])  # 1: the later layer has fewer errors
    differ = np.abs(change).sum(1)
    return np.divide(change.sum(1), differ, out=np.full(len(wer), np.nan), where=differ > 0)


def early_share(lens: LensReadings, rng: np.random.Generator) -> Estimate:
    """Return the share of tokens that become the lasting first choice before the last block, of those that are right
    after it."""
    first, right = settled(lens)
    if not right.any():
        return Estimate(None)
    early = ((first > 0) & (first < len(lens.layers) - 1))[right].astype(float)
    return cluster_rate(early, np.ones(len(early)), lens.clip_of[right], rng)


@dataclass(frozen=True, eq=False)
class DecoderLensReadings:
    """Readings by the model, and by the untrained model on the first clips.

    references: true texts of the clips.
    """

    lens: LensReadings
    untrained: LensReadings
    references: tuple[str, ...]
    examples: tuple[Example, ...]


class DecoderLens(Experiment[DecoderLensReadings]):
    """L2: let the decoder read earlier encoder blocks."""

    id, title = "L2", "DecoderLens: the decoder on earlier encoder blocks"
    claim = (
        "The decoder can read the encoder block by block: no block is harder to read than the one before, and earlier "
        "blocks already decide some of the words."
    )
    protocol = (
        "The residual stream before and after every block of the encoder goes through the encoder's final norm, and "
        "the decoder reads it in place of the encoder's output. Measured are the greedy text without timestamps and, "
        "with teacher forcing, the log-probability, rank and entropy at every token of the true text. Reported are the "
        "corpus WER by block and, for each token that is right after the last block, the first block after which it "
        "stays the decoder's first choice. Order: of all pairs of blocks whose WER differs, the share in which the "
        "later block has fewer errors minus the share in which it has more (Goodman and Kruskal's gamma). A WER of 0.9 "
        "or more counts as unreadable, and unreadable blocks count as equal. Intervals: 95 %, bootstrap over clips."
    )
    published = (
        Table(
            "DecoderLens on other models",
            "arXiv 2310.03686 (abstract)",
            ("what", "reported"),
            (
                ("models", "question answering, logical reasoning, speech recognition, machine translation"),
                ("result", "several specific subtasks are solved at low or intermediate layers of the encoder"),
            ),
        ),
    )
    published_summary = "several models: some subtasks are solved in low and middle layers; no number for tiny"

    def parameters(self, context: Context) -> dict[str, Any]:
        return {
            "clips": CLIPS,
            "untrained_clips": UNTRAINED_CLIPS,
            "norm": "the encoder's final norm, with the statistics of each block",
            "prompt_ids": context.transcriber().prompt()[0].tolist(),
        }

    def measure(self, context: Context) -> DecoderLensReadings:
        """Run up to thirty encoder passes, and decode each clip once per block."""
        usable = [i for i in range(len(context.utterances)) if context.references[i]][:CLIPS]
        if not usable:
            raise Untestable("no speech: pass --audio or --corpus")
        lens = read_layers(context, context.model, usable, "L2 blocks")
        untrained = read_layers(context, context.untrained, usable[:UNTRAINED_CLIPS], "L2 untrained")
        references = tuple(context.references[i] for i in usable)
        return DecoderLensReadings(lens, untrained, references, _examples(context, lens, usable))

    def judge(self, measured: DecoderLensReadings, setting: Setting) -> Finding:
        lens, blank, references = measured.lens, measured.untrained, list(measured.references)
        rng = setting.rng("bootstrap of clips, DecoderLens")
        n_untrained = len(blank.texts[0])
        curve, untrained = ErrorCurve(references, lens, rng), ErrorCurve(references[:n_untrained], blank, rng)
        other = ErrorCurve(references[1:] + references[:1], lens, rng)  # each text against the next clip's
        statistics = curve.statistics()
        criteria = (
            Criterion(ORDER, statistics[ORDER], 0.9, "at least"),
            Criterion(EARLY, early_share(lens, rng), 0.1, "at least"),
            Criterion(BLANK, statistics[BLANK], UNREADABLE, "at least"),
            Criterion(GAIN, statistics[GAIN], 0.5, "at least"),
            Criterion("clips", Estimate(len(references)), ENOUGH_CLIPS, "at least", role="gate"),
            Criterion("WER after the last block", curve.at(-1), 0.2, "at most", role="gate"),
        )
        controls = (
            Control(
                "untrained model",
                f"random weights ({n_untrained} clips)",
                {**untrained.statistics(), EARLY: early_share(blank, rng)},
            ),
            Control(
                "texts of other clips", "the same readings, compared with the text of another clip", other.statistics()
            ),
            Control(
                "blocks in random order",
                f"the same WERs, {DRAWS} random orders of the blocks",
                {ORDER: curve.in_random_order(rng)},
            ),
        )
        return self.finding(
            setting,
            criteria=criteria,
            controls=controls,
            measurements=_measurements(lens, curve, untrained, rng),
            examples=measured.examples,
            notes=_notes(lens, curve, setting),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the controls, WER by block, and the block after which tokens stay right."""
        wer = finding.measurement("WER by layer")
        layers = [str(entry) for entry in wer.axis("layer").entries]
        x = np.arange(len(layers))
        errors, axes = new_figure("Word errors by encoder block", "encoder read after", "WER (%)")
        for name, color, marker in (("this model", BLUE, "o"), ("untrained model", GRAY, "x")):
            values = 100 * np.minimum(wer.at(whose=name), MOST_SHOWN)
            beyond = f" (cut off at {MOST_SHOWN:.0%})" if (values >= 100 * MOST_SHOWN).any() else ""
            axes.plot(x, values[:, 0], color=color, marker=marker, label=name + beyond)
            axes.fill_between(x, values[:, 1], values[:, 2], color=color, alpha=0.2, linewidth=0)
        axes.set_xticks(*_sparse_ticks(layers))
        axes.set_ylim(0, None)
        errors.set_label(alt_text(finding.title, wer.at(whose="this model", bound="value"), layers))
        add_legend(axes)
        share = finding.measurement("tokens right from here on")
        words, axes = new_figure("Block after which a token stays right", "tokens (%)", "")
        draw_bars(axes, x[::-1], 100 * share.values, [GREEN] * len(x))
        axes.set_yticks(x[::-1], layers)
        words.set_label(alt_text("Block after which a token stays right", share.values[:, 0], layers))
        return [draw_controls(finding, 3, "fall of WER over the blocks"), errors, words]


def settled(lens: LensReadings) -> tuple[Int[np.ndarray, "token"], np.ndarray]:
    """Return the first layer after which each token stays the first choice, and whether it is right after the last
    layer."""
    right = lens.rank == 0
    return np.logical_and.accumulate(right[::-1])[::-1].argmax(0), right[-1]


def _measurements(
    lens: LensReadings, curve: ErrorCurve, untrained: ErrorCurve, rng: np.random.Generator
) -> tuple[Measurement, ...]:
    layers, bounds = Axis("layer", lens.layers), Axis("bound", ("value", "low", "high"))
    first, right = settled(lens)
    shares = [
        cluster_rate((first == k)[right].astype(float), np.ones(int(right.sum())), lens.clip_of[right], rng).row
        for k in range(len(lens.layers))
    ]
    curves = [
        [cluster_rate(row.astype(float), np.ones(len(row)), lens.clip_of, rng).row for row in values]
        for values in (lens.log_prob, lens.entropy, (lens.rank == 0).astype(float))
    ]
    first_clip = lens.clip_of == lens.clip_of[0]
    return (
        Measurement(
            "WER by layer",
            (Axis("whose", ("this model", "untrained model")), layers, bounds),
            np.array([[c.at(k).row for k in range(len(lens.layers))] for c in (curve, untrained)]),
        ),
        Measurement("tokens right from here on", (layers, bounds), np.array(shares)),
        Measurement(
            "curves over tokens",
            (Axis("what", ("log-probability (nats)", "entropy (nats)", "first choice is right")), layers, bounds),
            np.array(curves),
        ),
        Measurement(
            "log-probability in one clip",
            (layers, Axis("token", tuple(f"{k} {visible(lens.labels[k])}" for k in np.flatnonzero(first_clip)))),
            lens.log_prob[:, first_clip],
            "nats",
        ),
    )


def _examples(context: Context, lens: LensReadings, indices: Sequence[int]) -> tuple[Example, ...]:
    """Return the clips with the most words, with the decoder's text after every block."""
    order = sorted(range(len(indices)), key=lambda k: (-len(context.references[indices[k]].split()), k))
    examples = []
    for k in order[:N_EXAMPLES]:
        clip = context.utterances[indices[k]]
        rows = tuple((layer, texts[k]) for layer, texts in zip(lens.layers, lens.texts, strict=True))
        examples.append(Example(clip.id, clip.alignment.speaker, context.references[indices[k]], rows))
    return tuple(examples)


def _notes(lens: LensReadings, curve: ErrorCurve, setting: Setting) -> tuple[str, ...]:
    first, right = settled(lens)
    before = float((first[right] < len(lens.layers) - 1).mean()) if right.any() else 0.0
    notes = [
        f"Of the tokens that are right after the last block, {before:.0%} were the lasting first choice after an "
        "earlier layer. The decoder also guesses from the previous words; the layer before the first block shows how "
        "often.",
        f"WER one block before the last: {curve.wer[-2]:.0%}. Number of blocks that can be read (WER below "
        f"{UNREADABLE:.0%}): {int((curve.wer[1:] < UNREADABLE).sum())} of {len(curve.wer) - 1}. If only one block is "
        "readable, the order says no more than that this is the last block.",
        "The decoder and the final norm were trained on the last block only, so a block that looks unreadable may "
        "contain the words in another form.",
    ]
    if setting.reference == "model":
        notes.append("The clips have no texts, so the WER is measured against the model's own transcript.")
    return tuple(notes)


def _sparse_ticks(names: Sequence[str], most: int = 8) -> tuple[list[int], list[str]]:
    """Return positions and labels of about ``most`` ticks, including the last name."""
    step = -(-len(names) // most)
    ticks = list(range(len(names) - 1, -1, -step))[::-1]
    return ticks, [names[t].replace("block ", "") if len(names) > 6 else names[t] for t in ticks]

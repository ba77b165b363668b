"""F11: do neurons of the decoder respond to words of one semantic class?

This module tests the synthetic corpus, whose grammar has classes of words; :mod:`.words.semantic_classes` is the
version for released models.

Source: blog post of 2023-09-05, section 3.3 (``decoder.blocks.0.mlp.1``: food, numbers, verbs of movement).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.experiment import Experiment, Setting, Untestable
from hooked_whisper.findings.core.figures import BLUE, GRAY, add_legend, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.core.two_protocols import TwoProtocols
from hooked_whisper.findings.words.class_scores import best_thresholds, f1_of
from hooked_whisper.findings.words.semantic_classes import NamedWordNeurons
from hooked_whisper.hooked import HookedWhisper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOOK = "decoder.blocks.0.mlp.hook_post"
LEAST_TOKENS, LEAST_WORDS = 5, 3
SHUFFLES, RESAMPLES = 20, 400
GOOD = 0.7
ENOUGH_NEURONS, ENOUGH_UTTERANCES, ENOUGH_CLASSES = 5, 40, 5
N_SHOWN = 12

COUNT = "neurons with class F1 of 0.7 or more"


@dataclass(frozen=True, eq=False)
class WordActivations:
    """Activations at the tokens of words, one row per token."""

    values: Float[np.ndarray, "token neuron"]
    word: np.ndarray
    utterance: Int[np.ndarray, "token"]


@dataclass(frozen=True, eq=False)
class BestClasses:
    """The class and the threshold with the highest F1 for each neuron, the F1 on the half of the tokens on which they
    were selected, and the F1 on the other half."""

    label: Int[np.ndarray, "neuron"]
    threshold: Float[np.ndarray, "neuron"]
    selection_f1: Float[np.ndarray, "neuron"]
    f1: Float[np.ndarray, "neuron"]


@torch.no_grad()
def read_words(
    context: Context, model: HookedWhisper, indices: Sequence[int], encoded: torch.Tensor
) -> WordActivations:
    """Return the activations at each word's token, with the true text as decoder input.

    Rows are padded on the right, which does not change the activations of a causal decoder.

    Args:
        indices: indices of the utterances.
        encoded: encoder output of each of these utterances.
    """
    prompt = context.transcriber(model).prompt()[0].tolist()
    values, word, utterance = [], [], []
    for batch in context.batches(range(len(indices))):
        texts = [context.references[indices[k]].split() for k in batch]
        rows = [prompt + [model.to_single_token(f" {w}") for w in text] for text in texts]
        longest = max(map(len, rows))
        tokens = torch.tensor([r + [model.tokenizer.eot] * (longest - len(r)) for r in rows], device=model.device)
        _, cache = model.run_with_cache(tokens=tokens, encoder_out=encoded[batch], names_filter=HOOK, stop_early=True)
        for k, text, x in zip(batch, texts, cache[HOOK].float().cpu().numpy(), strict=True):
            values.append(x[len(prompt) : len(prompt) + len(text)])
            word += text
            utterance += [indices[k]] * len(text)
    return WordActivations(np.concatenate(values), np.array(word), np.array(utterance))


def evaluate(
    values: Float[np.ndarray, "token neuron"], member: Bool[np.ndarray, "token label"], train: Bool[np.ndarray, "token"]
) -> BestClasses:
    """Select classes and thresholds on the training tokens, and evaluate them on the other tokens."""
    scores, thresholds = best_thresholds(values[train], member[train])
    label = scores.argmax(1)
    neuron = np.arange(values.shape[1])
    threshold = thresholds[neuron, label]
    test = ~train
    f1 = f1_of(values[test] >= threshold, member[test][:, label])
    return BestClasses(label, threshold, scores[neuron, label], f1)


def usable_classes(class_of: Mapping[str, str], words: WordActivations, train: Bool[np.ndarray, "token"]) -> list[str]:
    """Return the classes with enough tokens and different words in each half."""
    label = np.array([class_of.get(w, "") for w in words.word])
    classes = []
    for name in sorted(set(label.tolist()) - {""}):
        halves = [words.word[(label == name) & half] for half in (train, ~train)]
        if all(len(h) >= LEAST_TOKENS and len(set(h.tolist())) >= LEAST_WORDS for h in halves):
            classes.append(name)
    return classes


def membership(
    words: WordActivations, class_of: Mapping[str, str], classes: Sequence[str]
) -> Bool[np.ndarray, "token label"]:
    """Return whether each token's word is in each class."""
    label = np.array([class_of.get(w, "") for w in words.word])
    return label[:, None] == np.array(classes)[None, :]


def shuffle_classes(class_of: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """Assign the words at random to classes of the same sizes."""
    words = list(class_of)
    return dict(zip(words, [class_of[words[k]] for k in rng.permutation(len(words))], strict=True))


@dataclass(frozen=True, eq=False)
class ClassNeurons:
    """Neurons and the classes of words to which they respond best.

    Attributes:
        train: the tokens on which classes and thresholds are selected.
        member: whether each token's word is in each class.
        untrained, untrained_best: activations and best classes of the untrained model.
        shuffled_counts: number of neurons with F1 of :data:`GOOD` or more, for classes with shuffled words.
    """

    words: WordActivations
    train: Bool[np.ndarray, "token"]
    classes: tuple[str, ...]
    member: Bool[np.ndarray, "token label"]
    best: BestClasses
    untrained: WordActivations
    untrained_best: BestClasses
    shuffled_counts: Float[np.ndarray, "shuffle"]


class SyntheticClassNeurons(Experiment[ClassNeurons]):
    """F11 on the synthetic corpus, with the grammar's classes of words."""

    id, title, claim = NamedWordNeurons.id, NamedWordNeurons.title, NamedWordNeurons.claim
    protocol = (
        "The decoder reads the true text of every utterance (teacher forcing, prompt without timestamps, the "
        "utterance's own audio), and decoder.blocks.0.mlp.hook_post is read at each word's token. For each neuron, "
        "the class and the threshold with the highest F1 (the neuron fires at or above the threshold) are selected on "
        "every second utterance, and the F1 is measured on the other utterances. Classes need at least "
        f"{LEAST_TOKENS} tokens and {LEAST_WORDS} different words in each half. Intervals: 95 %, bootstrap over the "
        "utterances of the second half. Controls: the words assigned at random to classes of the same sizes (mean and "
        f"95 % interval of {SHUFFLES} assignments); a model with random weights. Word identity is a confound, because "
        "a neuron for one frequent word of a class also has a high F1. So the number of words of the class at which it "
        "fires is reported, and the F1 on words that were not used in the selection."
    )
    own_speech = True
    published, published_summary = NamedWordNeurons.published, NamedWordNeurons.published_summary

    def parameters(self, context: Context) -> dict[str, Any]:
        return {
            "hook": HOOK,
            "least_tokens": LEAST_TOKENS,
            "least_words": LEAST_WORDS,
            "deals": SHUFFLES,
            "f1": GOOD,
        }

    def measure(self, context: Context) -> ClassNeurons:
        """Run decoder passes only. The untrained decoder reads the trained encoder's output, because the output of an
        untrained encoder contains almost nothing of the audio."""
        truth = context.truth
        assert truth is not None
        if not truth.class_of:
            raise Untestable(
                "this model's synthetic corpus has no classes of words: use the demo model or a released one"
            )
        known = set(truth.words)
        usable = [i for i, text in enumerate(context.references) if text and set(text.split()) <= known]
        if len(usable) < 2:
            raise Untestable("fewer than two clips consist of words of the corpus only: pass more speech")
        words = read_words(context, context.model, usable, context.encoded[usable])
        train = np.isin(words.utterance, usable[::2])
        classes = usable_classes(truth.class_of, words, train)
        if not classes:
            raise Untestable(f"no class has {LEAST_TOKENS} tokens in each half of the clips: pass more speech")
        untrained = read_words(context, context.untrained, usable, context.encoded[usable])
        member = membership(words, truth.class_of, classes)
        rng = context.rng("F11 deals")
        counts = []
        for _ in context.track(range(SHUFFLES), "F11 shuffled classes"):
            class_of = shuffle_classes(truth.class_of, rng)
            names = usable_classes(class_of, words, train)
            if names:
                shuffled = evaluate(words.values, membership(words, class_of, names), train)
                counts.append(int((shuffled.f1 >= GOOD).sum()))
        return ClassNeurons(
            words,
            train,
            tuple(classes),
            member,
            evaluate(words.values, member, train),
            untrained,
            evaluate(untrained.values, member, train),
            np.array(counts, dtype=float),
        )

    def judge(self, measured: ClassNeurons, setting: Setting) -> Finding:
        words, best, classes, counts = measured.words, measured.best, measured.classes, measured.shuffled_counts
        shuffled = Estimate.of(float(counts.mean()), counts) if len(counts) else Estimate(None)
        unseen = unseen_f1(words, best, measured.member, setting.rng("F11 unseen"))
        good = best.f1 >= GOOD
        count, untrained = (
            _count(activations, selected, measured, setting.rng("F11 bootstrap"))
            for activations, selected in ((words, best), (measured.untrained, measured.untrained_best))
        )
        edges = np.linspace(0, 1, 21)
        return self.finding(
            setting,
            criteria=(
                Criterion(COUNT, count, ENOUGH_NEURONS, "at least"),
                Criterion(
                    "utterances",
                    Estimate(len(set(words.utterance.tolist()))),
                    ENOUGH_UTTERANCES,
                    "at least",
                    role="gate",
                ),
                Criterion("classes", Estimate(len(classes)), ENOUGH_CLASSES, "at least", role="gate"),
            ),
            controls=(
                Control("shuffled classes", f"words assigned at random ({len(counts)} times)", {COUNT: shuffled}),
                Control("untrained model", "random weights", {COUNT: untrained}),
            ),
            measurements=(
                Measurement(
                    "neurons by class F1",
                    (Axis("model", ("this model", "untrained")), Axis("F1", tuple(edges[:-1].round(2).tolist()))),
                    np.array([np.histogram(b.f1, edges)[0] for b in (best, measured.untrained_best)]),
                    "neurons",
                ),
                Measurement(
                    "neurons of 0.7 or more by class",
                    (Axis("class", classes),),
                    np.bincount(best.label[good], minlength=len(classes)),
                    "neurons",
                ),
            ),
            tables=(_table(measured, unseen),),
            notes=(
                f"{len(words.word)} word tokens ({len(set(words.word.tolist()))} words); {len(classes)} classes have "
                f"enough of them: {', '.join(classes)}.",
                f"Without a criterion: of the {int(good.sum())} neurons, {int((unseen[good] >= GOOD).sum())} reach an "
                f"F1 of {GOOD} on words that were not used to select their threshold. Their class was selected on all "
                "words.",
                "Classes also differ by their place in the sentence. A neuron that responds to the last word looks "
                "like a neuron for the class that comes last, and shuffling the words does not separate the two.",
            ),
        )

    def draw(self, finding: Finding) -> list[Figure]:
        """Draw the count and its controls, and the distribution of F1."""
        table = finding.measurement("neurons by class F1")
        figure, axes = new_figure("Class F1 of every neuron", "F1 on the other half of the utterances", "neurons")
        x = np.array(table.axis("F1").entries, dtype=float) + 0.025
        for name, color, line in zip(table.axis("model").entries, (BLUE, GRAY), ("-", "--"), strict=True):
            axes.plot(x, table.at(model=name), color=color, linestyle=line, label=str(name))
        add_legend(axes)
        counts = finding.measurement("neurons of 0.7 or more by class")
        labels = [str(c) for c in counts.axes[0].entries]
        figure.set_label(alt_text("Neurons of 0.7 or more", counts.values, labels, "", 1.0))
        return [draw_controls(finding, 0, "neurons"), figure]


class SemanticNeurons(TwoProtocols):
    """F11: neurons for classes of words, on the synthetic corpus or on the packaged speech."""

    organism, released = SyntheticClassNeurons(), NamedWordNeurons()
    released_measurement = "neurons of 0.7 or more by block"
    own_speech = True


def _count(words: WordActivations, best: BestClasses, measured: ClassNeurons, rng: np.random.Generator) -> Estimate:
    """Count the good neurons. The bootstrap resamples the utterances of the second half."""
    test = ~measured.train
    fires, in_class = words.values[test] >= best.threshold, measured.member[test][:, best.label]
    groups, index = np.unique(words.utterance[test], return_inverse=True)
    sums = [np.zeros((len(groups), fires.shape[1])) for _ in range(2)]
    np.add.at(sums[0], index, fires & in_class)
    np.add.at(sums[1], index, fires.astype(float) + in_class)
    weights = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=RESAMPLES)
    both, total = (weights @ s for s in sums)
    counts = (2 * both / np.maximum(total, 1) >= GOOD).sum(1)
    return Estimate.of(int((best.f1 >= GOOD).sum()), counts.astype(float))


def unseen_f1(
    words: WordActivations, best: BestClasses, member: Bool[np.ndarray, "token label"], rng: np.random.Generator
) -> Float[np.ndarray, "neuron"]:
    """Return the F1 of each neuron on unseen words: the threshold for its class is selected on the tokens of half of
    the words of every class and evaluated on the tokens of the other words."""
    names = np.unique(words.word)
    train = np.isin(words.word, rng.permutation(names)[::2])
    _, thresholds = best_thresholds(words.values[train], member[train])
    threshold = thresholds[np.arange(len(best.label)), best.label]
    return f1_of(words.values[~train] >= threshold, member[~train][:, best.label])


def _table(measured: ClassNeurons, unseen: Float[np.ndarray, "neuron"]) -> Table:
    """Return a table of the best neurons, with the words of their class and the other words at which they fire in the
    second half."""
    words, best, test = measured.words, measured.best, ~measured.train
    rows = []
    for n in np.argsort(-best.f1, kind="stable")[:N_SHOWN].tolist():
        fires, in_class = words.values[test, n] >= best.threshold[n], measured.member[test, best.label[n]]
        tokens = words.word[test]
        hit, of, wrong = (sorted(set(tokens[m].tolist())) for m in (fires & in_class, in_class, fires & ~in_class))
        rows.append(
            (
                str(n),
                measured.classes[int(best.label[n])],
                f"{best.f1[n]:.2f}",
                f"{unseen[n]:.2f}",
                f"{len(hit)} of {len(of)}: {' '.join(hit[:8])}",
                " ".join(wrong[:6]) or "none",
            )
        )
    columns = ("neuron", "class", "F1", "F1 on unseen words", "fires at words of the class", "fires at other words")
    return Table("Best neurons", "this run", columns, tuple(rows))

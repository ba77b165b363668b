"""F11: do neurons of the decoder's first MLP answer to classes of words, whatever the words sound like?

Source: blog post of 2023-09-05, section 3.3 (``decoder.blocks.0.mlp.1``: food, numbers, verbs of movement).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from hooked_whisper.errors import AudioError
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.figures import BLUE, GRAY, add_legend, alt_text, draw_controls, new_figure
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.core.records import Axis, Measurement, Table
from hooked_whisper.findings.words import classes as word_classes
from hooked_whisper.findings.words.class_scores import best_thresholds, f1_of
from hooked_whisper.hooked import HookedWhisper

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ID, TITLE = "F11", "Neurons for classes of words"
CLAIM = "Some neurons in the decoder's first MLP fire on words of one class of meaning, more often than by chance."
PROTOCOL = word_classes.PROTOCOL
SYNTHETIC_PROTOCOL = (
    "The true text of every utterance is forced on the decoder (prompt without timestamps, the utterance's own audio); "
    "decoder.blocks.0.mlp.hook_post is read at each word's token. Every second utterance chooses, for each neuron, the "
    "class and the threshold of highest F1 (firing: at or above the threshold); the other utterances give its F1. "
    "Classes with at least {least} tokens and {words} different words in each half. Intervals: 95 %, bootstrap over "
    "the utterances of the second half. Controls: the words dealt out to classes of the same sizes at random (mean and "
    "95 % of {draws} deals); a model with random weights. Word identity is a confound: a neuron for one frequent word "
    "of a class has a high F1 too; so how many of the class's words it fires at is reported, and the F1 on words that "
    "the choice has not seen."
)
HOOK = "decoder.blocks.0.mlp.hook_post"
LEAST_TOKENS, LEAST_WORDS = 5, 3
SYNTHETIC_PROTOCOL = SYNTHETIC_PROTOCOL.format(least=LEAST_TOKENS, words=LEAST_WORDS, draws=20)
DEALS, RESAMPLES = 20, 400
GOOD = 0.7
ENOUGH_NEURONS, ENOUGH_UTTERANCES, ENOUGH_CLASSES = 5, 40, 5
N_SHOWN = 12

COUNT = "neurons with class F1 of 0.7 or more"
SAID = Table(
    "Neurons of tiny, block 0",
    "blog post of 2023-09-05, by listening",
    ("neuron", "fires at"),
    (("10", "food"), ("12", "numbers"), ("14", "verbs of movement")),
)


@dataclass(frozen=True, eq=False)
class Words:
    """Activations at word tokens: one row per token."""

    values: Float[np.ndarray, "token neuron"]
    word: np.ndarray
    utterance: Int[np.ndarray, "token"]


@dataclass(frozen=True, eq=False)
class Best:
    """For each neuron the class, the threshold and the F1 of the half that chose them, and the F1 of the other."""

    label: Int[np.ndarray, "neuron"]
    threshold: Float[np.ndarray, "neuron"]
    chosen_f1: Float[np.ndarray, "neuron"]
    f1: Float[np.ndarray, "neuron"]


@torch.no_grad()
def read_words(context: Context, model: HookedWhisper, indices: Sequence[int], encoded: torch.Tensor) -> Words:
    """Teacher-forced; rows are padded on the right, which a causal decoder does not see. ``encoded``: one row each."""
    prompt = context.transcriber(model).prompt()[0].tolist()
    values, word, utterance = [], [], []
    for batch in context.batches(range(len(indices))):
        texts = [context.references[indices[k]].split() for k in batch]
        rows = [prompt + [model.to_single_token(f" {w}") for w in text] for text in texts]
        longest = max(map(len, rows))
        tokens = torch.tensor([r + [model.tokenizer.eot] * (longest - len(r)) for r in rows], device=model.device)
        _, cache = model.run_with_cache(tokens=tokens, encoder_out=encoded[batch], names=HOOK, return_type=None)
        for k, text, x in zip(batch, texts, cache[HOOK].float().cpu().numpy(), strict=True):
            values.append(x[len(prompt) : len(prompt) + len(text)])
            word += text
            utterance += [indices[k]] * len(text)
    return Words(np.concatenate(values), np.array(word), np.array(utterance))


def evaluate(
    values: Float[np.ndarray, "token neuron"], member: Bool[np.ndarray, "token label"], train: Bool[np.ndarray, "token"]
) -> Best:
    """Choose on the training tokens, measure on the others."""
    scores, thresholds = best_thresholds(values[train], member[train])
    label = scores.argmax(1)
    neuron = np.arange(values.shape[1])
    threshold = thresholds[neuron, label]
    test = ~train
    f1 = f1_of(values[test] >= threshold, member[test][:, label])
    return Best(label, threshold, scores[neuron, label], f1)


def usable_classes(class_of: Mapping[str, str], words: Words, train: Bool[np.ndarray, "token"]) -> list[str]:
    """Classes with enough tokens and different words in each half."""
    label = np.array([class_of.get(w, "") for w in words.word])
    found = []
    for name in sorted(set(label.tolist()) - {""}):
        halves = [words.word[(label == name) & half] for half in (train, ~train)]
        if all(len(h) >= LEAST_TOKENS and len(set(h.tolist())) >= LEAST_WORDS for h in halves):
            found.append(name)
    return found


def membership(words: Words, class_of: Mapping[str, str], classes: Sequence[str]) -> Bool[np.ndarray, "token label"]:
    label = np.array([class_of.get(w, "") for w in words.word])
    return label[:, None] == np.array(classes)[None, :]


def dealt(class_of: Mapping[str, str], rng: np.random.Generator) -> dict[str, str]:
    """The same classes, of the same sizes, over other words."""
    words = list(class_of)
    return dict(zip(words, [class_of[words[k]] for k in rng.permutation(len(words))], strict=True))


def run(context: Context) -> Finding:
    """On the synthetic corpus decoder passes only; real Whisper hears the sentences of :mod:`.word_classes`."""
    truth = context.truth
    if truth is None:
        try:
            return word_classes.run(context, {"id": ID, "title": TITLE, "claim": CLAIM, "published": (SAID,)})
        except AudioError as error:
            return _finding(context, reason=f"classes of words need the packaged speech ({error})")
    if not truth.class_of:
        return _finding(
            context,
            reason="this model's synthetic corpus has no classes of words: use the demo model or a released one",
        )
    known = set(truth.words)
    usable = [i for i, text in enumerate(context.references) if text and set(text.split()) <= known]
    if len(usable) < 2:
        return _finding(context, reason="no clips that consist of words of known classes: give more speech")
    words = read_words(context, context.model, usable, context.encoded[usable])
    train = np.isin(words.utterance, usable[::2])
    classes = usable_classes(truth.class_of, words, train)
    if not classes:
        return _finding(
            context, reason=f"no class has {LEAST_TOKENS} tokens in each half of the clips: give more speech"
        )
    # without the encoder nothing of the audio is in the block: so the twin gets the trained encoder's output
    blank = read_words(context, context.untrained, usable, context.encoded[usable])
    member = membership(words, truth.class_of, classes)
    ours = evaluate(words.values, member, train)
    twin = evaluate(blank.values, member, train)
    rng = context.rng("F11 deals")
    deals = []
    for _ in context.track(range(DEALS), "F11 deals"):
        other = dealt(truth.class_of, rng)
        names = usable_classes(other, words, train)
        if names:
            found = evaluate(words.values, membership(words, other, names), train)
            deals.append(int((found.f1 >= GOOD).sum()))
    return _finding(context, words, train, classes, ours, blank, twin, np.array(deals, dtype=float))


def _count(
    context: Context,
    words: Words,
    best: Best,
    member: Bool[np.ndarray, "token label"],
    train: Bool[np.ndarray, "token"],
) -> Estimate:
    """Number of good neurons, with the utterances of the second half resampled."""
    test = ~train
    fires, own = words.values[test] >= best.threshold, member[test][:, best.label]
    groups, index = np.unique(words.utterance[test], return_inverse=True)
    sums = [np.zeros((len(groups), fires.shape[1])) for _ in range(2)]
    np.add.at(sums[0], index, fires & own)
    np.add.at(sums[1], index, fires.astype(float) + own)
    rng = context.rng("F11 bootstrap")
    weights = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=RESAMPLES)
    both, total = (weights @ s for s in sums)
    counts = (2 * both / np.maximum(total, 1) >= GOOD).sum(1)
    return Estimate.of(int((best.f1 >= GOOD).sum()), counts.astype(float))


def unseen_f1(
    words: Words, best: Best, member: Bool[np.ndarray, "token label"], rng: np.random.Generator
) -> Float[np.ndarray, "neuron"]:
    """F1 with the words, not the utterances, in two halves: the threshold for the neuron's class is chosen on half of
    the words (of every class) and measured on tokens of the others."""
    names = np.unique(words.word)
    train = np.isin(words.word, rng.permutation(names)[::2])
    _, thresholds = best_thresholds(words.values[train], member[train])
    threshold = thresholds[np.arange(len(best.label)), best.label]
    return f1_of(words.values[~train] >= threshold, member[~train][:, best.label])


def _finding(
    context: Context,
    words: Words | None = None,
    train: Bool[np.ndarray, "token"] | None = None,
    classes: Sequence[str] = (),
    ours: Best | None = None,
    blank: Words | None = None,
    twin: Best | None = None,
    deals: Float[np.ndarray, "deal"] | None = None,
    reason: str = "",
) -> Finding:
    common: dict[str, Any] = {
        **context.common(ID, TITLE, CLAIM, SYNTHETIC_PROTOCOL),
        "published": (SAID,),
        "published_summary": "tiny: three neurons for food, numbers and movement, found by listening; no numbers",
        "parameters": {
            "hook": HOOK,
            "least_tokens": LEAST_TOKENS,
            "least_words": LEAST_WORDS,
            "deals": DEALS,
            "f1": GOOD,
        },
    }
    if words is None or train is None or ours is None or blank is None or twin is None or deals is None:
        return Finding(**common, reason_untestable=reason)
    assert context.truth is not None
    member = membership(words, context.truth.class_of, classes)
    shuffled = Estimate.of(float(deals.mean()), deals) if len(deals) else Estimate(None)
    unseen = unseen_f1(words, ours, member, context.rng("F11 unseen"))
    good = ours.f1 >= GOOD
    criteria = (
        Criterion(COUNT, _count(context, words, ours, member, train), ENOUGH_NEURONS, "at least"),
        Criterion(
            "utterances", Estimate(len(set(words.utterance.tolist()))), ENOUGH_UTTERANCES, "at least", role="gate"
        ),
        Criterion("classes", Estimate(len(classes)), ENOUGH_CLASSES, "at least", role="gate"),
    )
    controls = (
        Control("shuffled classes", f"the words dealt out at random ({len(deals)} deals)", {COUNT: shuffled}),
        Control("untrained model", "random weights", {COUNT: _count(context, blank, twin, member, train)}),
    )
    edges = np.linspace(0, 1, 21)
    return Finding(
        **common,
        criteria=criteria,
        controls=controls,
        measurements=(
            Measurement(
                "neurons by class F1",
                (Axis("model", ("this model", "untrained")), Axis("F1", tuple(edges[:-1].round(2).tolist()))),
                np.array([np.histogram(b.f1, edges)[0] for b in (ours, twin)]),
                "neurons",
            ),
            Measurement(
                "neurons of 0.7 or more by class",
                (Axis("class", tuple(classes)),),
                np.bincount(ours.label[good], minlength=len(classes)),
                "neurons",
            ),
        ),
        tables=(_table(words, ours, member, classes, train, unseen),),
        notes=(
            f"{len(words.word)} word tokens ({len(set(words.word.tolist()))} words), {len(classes)} classes with "
            f"enough of them: {', '.join(classes)}.",
            f"Not judged: of the {int(good.sum())} neurons, {int((unseen[good] >= GOOD).sum())} reach F1 {GOOD} on "
            "words that the choice of their threshold has not seen (their class was chosen on all words).",
            "Classes differ by their place in the sentence, too: a neuron for what comes last looks like one for the "
            "class that comes last. Dealing out the words does not tell the two apart.",
        ),
    )


def _table(
    words: Words,
    best: Best,
    member: Bool[np.ndarray, "token label"],
    classes: Sequence[str],
    train: Bool[np.ndarray, "token"],
    unseen: Float[np.ndarray, "neuron"],
) -> Table:
    """The best neurons, with the words of their class (and others) at which they fire in the second half."""
    rows = []
    for n in np.argsort(-best.f1, kind="stable")[:N_SHOWN].tolist():
        fires, own = words.values[~train, n] >= best.threshold[n], member[~train, best.label[n]]
        said = words.word[~train]
        hit, of, wrong = (sorted(set(said[m].tolist())) for m in (fires & own, own, fires & ~own))
        rows.append(
            (
                str(n),
                classes[int(best.label[n])],
                f"{best.f1[n]:.2f}",
                f"{unseen[n]:.2f}",
                f"{len(hit)} of {len(of)}: {' '.join(hit[:8])}",
                " ".join(wrong[:6]) or "none",
            )
        )
    columns = ("neuron", "class", "F1", "F1 on unseen words", "words of the class it fires at", "other words")
    return Table("Best neurons", "this run", columns, tuple(rows))


def draw(finding: Finding) -> list[Figure]:
    """The count beside its controls; how F1 is distributed."""
    if not finding.measurements:
        return []
    if not any(one.name == "neurons by class F1" for one in finding.measurements):
        return word_classes.draw(finding)
    table = finding.measurement("neurons by class F1")
    figure, axes = new_figure("Class F1 of every neuron", "F1 on the other half of the utterances", "neurons")
    x = np.array(table.axis("F1").entries, dtype=float) + 0.025
    for name, colour, line in zip(table.axis("model").entries, (BLUE, GRAY), ("-", "--"), strict=True):
        axes.plot(x, table.at(model=name), color=colour, linestyle=line, label=str(name))
    add_legend(axes)
    counts = finding.measurement("neurons of 0.7 or more by class")
    labels = [str(c) for c in counts.axes[0].entries]
    figure.set_label(alt_text("Neurons of 0.7 or more", counts.values, labels, "", 1.0))
    return [draw_controls(finding, 0, "neurons"), figure]

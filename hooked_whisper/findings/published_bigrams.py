"""F9 beside what was published: our top lists in the same form, and the comparison with ``tiny`` where that is the
model."""

from __future__ import annotations

import numpy as np
import torch

from hooked_whisper.analysis import next_token_logits, top_tokens
from hooked_whisper.analysis.bigrams import RankedToken
from hooked_whisper.findings import published
from hooked_whisper.findings.context import Context, released_name
from hooked_whisper.findings.finding import Control, Criterion, Estimate, Finding
from hooked_whisper.findings.records import Table
from hooked_whisper.findings.truth import Truth
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import null_encoding

PUBLISHED = tuple(published.list_table(one) for one in published.TOP_LISTS)
PROMPTS = ("very", "traffic", "good")

ORDER = "first five after ␣very in the published place"
LOGITS = "largest difference of their logits"
GOOD = "published tokens among the first 20 after Good (of 18)"
TRAFFIC = "published tokens among the first 20 after traffic, better of two lists (of 19)"


def our_tables(context: Context, truth: Truth, kept: dict[str, np.ndarray], n: int = 10) -> tuple[Table, ...]:
    """The likeliest followers of the published prompt words, in this model's own world."""
    tables = []
    for word in PROMPTS:
        if word not in truth.words:
            continue
        i = truth.words.index(word)
        for prefix, logits in kept.items():
            own = logits[i, :-1]
            probability = np.exp(own - own.max()) / np.exp(own - own.max()).sum()
            row = truth.row[i, :-1] / max(truth.row[i, :-1].sum(), 1e-12)
            rows = tuple(
                (f"␣{truth.words[j]}", str(truth.tokens[j]), f"{own[j]:.2f}", f"{probability[j]:.3f}", f"{row[j]:.3f}")
                for j in np.argsort(-own, kind="stable")[:n]
            )
            columns = ("token", "id", "logit", "probability", "true")
            tables.append(Table(f"After '␣{word}', prefix {prefix}", f"ours: {context.model.cfg.name}", columns, rows))
    return tuple(tables)


def _lists(model: HookedWhisper, context: Context) -> dict[str, list[RankedToken]]:
    """First 20 tokens after each published prompt, spelled with and without its leading space."""
    prefix = model.prompter.prompt_ids(language=context.language, timestamps=True)
    empty = null_encoding(model, "zero audio")
    found = {}
    for spelled in (" very", " traffic", "traffic", " Good", "Good"):
        ids = model.to_tokens(spelled, prompt=False)[0]
        if len(ids) == 1:
            found[spelled] = top_tokens(model, next_token_logits(model, prefix, ids, empty)[0])
    return found


def _shared(model: HookedWhisper, ours: list[RankedToken], theirs: published.TopList) -> int:
    ids = {token.id for token in ours}
    return sum(
        any(len(t) == 1 and int(t[0]) in ids for t in [model.to_tokens(text, prompt=False)[0]])
        for text, _ in theirs.entries
    )


def _statistics(model: HookedWhisper, lists: dict[str, list[RankedToken]]) -> dict[str, Estimate]:
    very, theirs = lists.get(" very", []), published.VERY.entries[:5]
    ids = [int(model.to_tokens(text, prompt=False)[0, 0]) for text, _ in theirs]
    in_place = sum(a.id == b for a, b in zip(very, ids, strict=False))
    logits = {token.id: token.value for token in very}
    gaps = [abs(logits[i] - value) for i, (_, value) in zip(ids, theirs, strict=True) if i in logits]
    good = [_shared(model, lists[s], published.GOOD) for s in ("Good", " Good") if s in lists]
    traffic = [
        _shared(model, lists[s], theirs)
        for s in (" traffic", "traffic")
        if s in lists
        for theirs in (published.TRAFFIC_DOCS, published.TRAFFIC_BLOG)
    ]
    return {
        ORDER: Estimate(in_place),
        LOGITS: Estimate(max(gaps) if len(gaps) == len(ids) else None),
        GOOD: Estimate(max(good, default=None)),
        TRAFFIC: Estimate(max(traffic, default=None)),
    }


def run(context: Context, id: str, title: str, claim: str, protocol: str) -> Finding:
    """On a model whose world is not known: its top lists, judged against the published ones if it is ``tiny``."""
    model = context.model
    lists = _lists(model, context)
    prefix = model.prompter.prompt_ids(language=context.language, timestamps=True)
    tables = tuple(
        Table(
            f"After {spelled.replace(' ', '␣')!r}",
            f"ours: {model.cfg.name}",
            ("token", "id", "logit"),
            tuple((t.text, str(t.id), f"{t.value:.2f}") for t in tokens),
        )
        for spelled, tokens in lists.items()
    )
    criteria: tuple[Criterion, ...] = ()
    controls: tuple[Control, ...] = ()
    reason = "the lists were published for tiny, and the true bigrams of its training text are not known"
    if released_name(model.cfg.name) == "tiny":
        reason = ""
        found = _statistics(model, lists)
        criteria = (
            Criterion(ORDER, found[ORDER], 5, "at least"),
            Criterion(LOGITS, found[LOGITS], 0.15, "at most"),
            Criterion(GOOD, found[GOOD], 15, "at least"),
            Criterion(TRAFFIC, found[TRAFFIC], 15, "at least"),
        )
        with torch.no_grad():
            blank = _statistics(context.untrained, _lists(context.untrained, context))
        controls = (Control("untrained model", "random weights", blank),)
    return Finding(
        id=id,
        title=title,
        claim=claim,
        protocol=protocol,
        model=model.cfg.name,
        inputs={"seed": context.seed},
        parameters={"prefix_ids": prefix, "prefix": model.to_str_tokens(prefix), "null_input": "zero audio"},
        criteria=criteria,
        controls=controls,
        tables=tables,
        published=PUBLISHED,
        published_summary=published.BIGRAMS_IN_SHORT,
        notes=("Each prompt was tried with and without its leading space; the published pages do not say which.",),
        reason_untestable=reason,
    )

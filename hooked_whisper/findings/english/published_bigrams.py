"""The most likely next tokens in the form of the published lists (F9), compared with them if the model is ``tiny``."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.analysis import next_token_logits, top_tokens
from hooked_whisper.analysis.token_lists import TokenList
from hooked_whisper.findings.core import published
from hooked_whisper.findings.core.context import Context, released_name
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate
from hooked_whisper.findings.core.records import Table
from hooked_whisper.findings.core.synthetic_truth import Truth
from hooked_whisper.findings.english.published_comparison import PublishedComparison
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions import baseline_encoding

PUBLISHED = tuple(published.list_table(top_list) for top_list in published.TOP_LISTS)
PROMPTS = ("very", "traffic", "good")
SPELLED = (" very", " traffic", "traffic", " good", " Good", "Good")

ORDER = "first five after ␣very in the published place"
LOGITS = "largest difference of their logits"
GOOD = "published tokens among the first 20 after Good (of 18)"
TRAFFIC = "published tokens among the first 20 after traffic, better of two lists (of 19)"


def our_tables(model: str, truth: Truth, logits_by_prefix: dict[str, np.ndarray], n: int = 10) -> tuple[Table, ...]:
    """Return the most likely followers of the published prompt words in the synthetic corpus. ``model`` is its name."""
    tables = []
    for word in PROMPTS:
        if word not in truth.words:
            continue
        i = truth.words.index(word)
        for prefix, logits in logits_by_prefix.items():
            scores = logits[i, :-1]
            probability = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            row = truth.row[i, :-1] / max(truth.row[i, :-1].sum(), 1e-12)
            rows = tuple(
                (
                    f"␣{truth.words[j]}",
                    str(truth.tokens[j]),
                    f"{scores[j]:.2f}",
                    f"{probability[j]:.3f}",
                    f"{row[j]:.3f}",
                )
                for j in np.argsort(-scores, kind="stable")[:n]
            )
            columns = ("token", "id", "logit", "probability", "true")
            tables.append(Table(f"After '␣{word}', prefix {prefix}", f"ours: {model}", columns, rows))
    return tuple(tables)


@torch.no_grad()
def _logits(model: HookedWhisper, language: str) -> dict[str, Float[torch.Tensor, "vocab"]]:
    """Return the logits after each published prompt, with and without a leading space. The published pages do not say
    which was used."""
    prefix = model.prompter.prompt_ids(language=language, timestamps=True)
    empty = baseline_encoding(model, "zero audio")
    rows = {}
    for spelled in SPELLED:
        ids = model.to_tokens(spelled, prompt=False)[0]
        if len(ids) == 1:
            rows[spelled] = next_token_logits(model, prefix, ids, empty)[0]
    return rows


def _shared(model: HookedWhisper, ours: TokenList, theirs: published.TopList) -> int:
    ids = {token.id for token in ours}
    return sum(
        any(len(t) == 1 and int(t[0]) in ids for t in [model.to_tokens(text, prompt=False)[0]])
        for text, _ in theirs.entries
    )


def _statistics(model: HookedWhisper, lists: dict[str, TokenList]) -> dict[str, Estimate]:
    very, theirs = lists.get(" very", ()), published.VERY.entries[:5]
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


def compare(context: Context, language: str, mean: Float[torch.Tensor, "text"]) -> PublishedComparison:
    """Return the most likely tokens after the published prompts, by logit and by logit minus the ``mean`` over many
    prompts."""
    model = context.model
    rows = _logits(model, language)
    lists = {spelled: top_tokens(model, logits) for spelled, logits in rows.items()}
    centered = {spelled: top_tokens(model, logits[: len(mean)] - mean) for spelled, logits in rows.items()}
    tables = tuple(
        _table(model, spelled, tokens, score)
        for spelled in lists
        for tokens, score in ((lists[spelled], "logit"), (centered[spelled], "logit minus mean over prompts"))
    )
    if released_name(model.cfg.name) != "tiny":
        return PublishedComparison(tables)
    values = _statistics(model, lists)
    criteria = (
        Criterion(ORDER, values[ORDER], 5, "at least"),
        Criterion(LOGITS, values[LOGITS], 0.15, "at most"),
        Criterion(GOOD, values[GOOD], 15, "at least"),
        Criterion(TRAFFIC, values[TRAFFIC], 15, "at least"),
    )
    blank = {
        spelled: top_tokens(context.untrained, row) for spelled, row in _logits(context.untrained, language).items()
    }
    control = Control("untrained model, published lists", "random weights", _statistics(context.untrained, blank))
    return PublishedComparison(tables, criteria, (control,))


def _table(model: HookedWhisper, spelled: str, tokens: TokenList, score: str) -> Table:
    rows = tuple((token.text, str(token.id), f"{token.value:.2f}") for token in tokens)
    title = f"After {spelled.replace(' ', '␣')!r}" + ("" if score == "logit" else f": {score}")
    return Table(title, f"ours: {model.cfg.name}", ("token", "id", "logit"), rows)

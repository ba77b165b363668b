"""The nearest tokens in the form of the published lists (F10), compared with them if the model is ``tiny``."""

from __future__ import annotations

import numpy as np

from hooked_whisper._support.showing import visible
from hooked_whisper.analysis import nearest_tokens
from hooked_whisper.findings.core import published
from hooked_whisper.findings.core.context import released_name
from hooked_whisper.findings.core.finding import Control, Criterion, Estimate
from hooked_whisper.findings.core.records import Table
from hooked_whisper.findings.english.published_comparison import PublishedComparison
from hooked_whisper.hooked import HookedWhisper

WHOLE_LIST, GAP = "published neighbours among our 24 nearest (share)", "largest difference of their cosines"


def compare(model: HookedWhisper, untrained: HookedWhisper) -> PublishedComparison:
    """Return the 24 nearest text tokens to each published word, raw and mean-centered.

    The published pages do not name the size of the model; their other figures use ``tiny``.
    """
    tables, shares, gaps = _compare(model)
    centered, _, _ = _compare(model, centered=True)
    tables += centered
    if released_name(model.cfg.name) != "tiny":
        return PublishedComparison(tables)
    criteria = (
        Criterion(WHOLE_LIST, Estimate(float(np.mean(shares))), 0.95, "at least"),
        Criterion(GAP, Estimate(max(gaps, default=None)), 0.001, "at most"),
    )
    _, blank_shares, blank_gaps = _compare(untrained)
    blank = {WHOLE_LIST: Estimate(float(np.mean(blank_shares))), GAP: Estimate(max(blank_gaps, default=None))}
    control = Control("untrained model, published lists", "random embeddings", blank)
    return PublishedComparison(tables, criteria, (control,))


def _compare(model: HookedWhisper, centered: bool = False) -> tuple[tuple[Table, ...], list[float], list[float]]:
    """Return the nearest tokens to each published word, the share of its published list among them, and the differences
    of the cosines.

    Each word is looked up with and without a leading space, and the spelling that shares more with the published list
    is used.
    """
    tables, shares, gaps = [], [], []
    for word, listed in published.NEIGHBORS.items():
        candidates = [
            _against_list(model, spelled, listed, centered)
            for spelled in (word, f" {word}")
            if len(model.to_tokens(spelled, prompt=False)[0]) == 1
        ]
        if candidates:
            table, share, differences = max(candidates, key=lambda candidate: candidate[1])
            tables.append(table)
            shares.append(share)
            gaps += differences
    return tuple(tables), shares, gaps


def _against_list(
    model: HookedWhisper, spelled: str, listed: tuple[tuple[str, float], ...], centered: bool
) -> tuple[Table, float, list[float]]:
    near = nearest_tokens(model, spelled, 24, embeddings="centered" if centered else "raw")
    cosines: dict[str, list[float]] = {}
    for token in near:
        cosines.setdefault(token.text.strip("␣"), []).append(token.value)
    shared = [(cosines[text], value) for text, value in listed if text in cosines]
    differences = [min(abs(ours - value) for ours in values) for values, value in shared]
    rows = tuple((token.text, str(token.id), f"{token.value:.3f}") for token in near)
    title = f"Nearest to {visible(spelled)!r}" + (", mean-centered" if centered else "")
    table = Table(title, f"ours: {model.cfg.name}", ("token", "id", "cosine"), rows)
    return table, len(shared) / len(listed), differences

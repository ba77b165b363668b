"""Fold TIMIT's 61 phones to the usual 39."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from hooked_whisper.protocols import SILENCE, Alignment, Interval

# 61 phones to 38 and silence. Source: Lee and Hon 1989, "Speaker-independent phone recognition using hidden Markov
# models", table II, as in most publications on TIMIT, except that closures belong to their stops here.
_FOLDED = {
    "AO": "AA", "AX": "AH", "AX-H": "AH", "AXR": "ER", "HV": "HH", "IX": "IH", "EL": "L", "EM": "M", "EN": "N",
    "NX": "N", "ENG": "NG", "ZH": "SH", "UX": "UW",
    "BCL": "B", "DCL": "D", "GCL": "G", "PCL": "P", "TCL": "T", "KCL": "K",
    **dict.fromkeys(["H#", "PAU", "EPI", "Q", "SIL"], SILENCE),
}  # fmt: skip
_RELEASES = {"bcl": {"b"}, "dcl": {"d", "jh"}, "gcl": {"g"}, "pcl": {"p"}, "tcl": {"t", "ch"}, "kcl": {"k"}}
_STRESS = re.compile(r"(?<=[A-Z])[012]$")


def fold_timit(label: str) -> str:
    """Fold one of TIMIT's 61 labels, or a phone of the CMU dictionary, to one of the usual 39 classes.

    The classes are 38 phones in upper case (``"AA"``, ``"DX"``, ...) and ``"SIL"``. As in Lee and Hon (1989), AO
    becomes AA, AX becomes AH and ZH becomes SH. A closure gets the label of its stop (``"bcl"`` becomes ``"B"``). The
    glottal stop ``q``, which the paper drops, becomes silence. Case and stress digits are ignored (``"AO1"``,
    ``"ao"``), and unknown labels are returned in upper case.

    Fold both to compare TIMIT with a corpus aligned by the CMU dictionary; the dictionary has no flap and writes T or D
    for ``"DX"``.
    """
    upper = _STRESS.sub("", label.upper())
    return _FOLDED.get(upper, upper)


def fold_closures(alignment: Alignment) -> Alignment:
    """Fold an alignment with TIMIT's 61 labels to 39 classes, with one interval per stop.

    A closure and its release become one interval with the stop's label; so do ``dcl jh`` and ``tcl ch``. A closure
    without a release also gets the stop's label.
    """
    phones: list[Interval] = []
    labels = [phone.label for phone in alignment.phones]
    start: float | None = None  # of the closure before this phone
    for phone, following in zip(alignment.phones, [*labels[1:], ""], strict=True):
        begin = phone.start if start is None else start
        start = None
        if following.lower() in _RELEASES.get(phone.label.lower(), ()):
            start = begin
            continue
        phones.append(Interval(begin, phone.end, fold_timit(phone.label)))
    return replace(alignment, phones=tuple(phones))


def folded(find: Callable[[], Alignment], facts: dict[str, str]) -> Alignment:
    """Return ``find()`` with its phones folded to 39 classes and ``facts`` in its ``extra``."""
    return fold_closures(without_folding(find, facts))


def without_folding(find: Callable[[], Alignment], facts: dict[str, str]) -> Alignment:
    """Return ``find()`` with ``facts`` in its ``extra``."""
    alignment = find()
    return replace(alignment, extra={**facts, **alignment.extra})

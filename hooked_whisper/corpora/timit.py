"""TIMIT: its label files, its 61 phones and the usual 39."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from hooked_whisper.protocols import SILENCE, Alignment, Interval

# 61 phones to 38 and silence. Source: Lee and Hon 1989, "Speaker-independent phone recognition using hidden Markov
# models", table II, as most publications on TIMIT use it; but closures belong to their stops here.
_FOLDED = {
    "AO": "AA", "AX": "AH", "AX-H": "AH", "AXR": "ER", "HV": "HH", "IX": "IH", "EL": "L", "EM": "M", "EN": "N",
    "NX": "N", "ENG": "NG", "ZH": "SH", "UX": "UW",
    "BCL": "B", "DCL": "D", "GCL": "G", "PCL": "P", "TCL": "T", "KCL": "K",
    **dict.fromkeys(["H#", "PAU", "EPI", "Q", "SIL"], SILENCE),
}  # fmt: skip
_RELEASES = {"bcl": {"b"}, "dcl": {"d", "jh"}, "gcl": {"g"}, "pcl": {"p"}, "tcl": {"t", "ch"}, "kcl": {"k"}}
_STRESS = re.compile(r"(?<=[A-Z])[012]$")


def fold_timit(label: str) -> str:
    """One of the usual 39 classes for one of TIMIT's 61 labels, or for one of the CMU dictionary's 39 phones.

    The classes are written in upper case: 38 phones (``"AA"``, ``"DX"``, ...) and ``"SIL"``. AO goes to AA, AX to AH,
    ZH to SH, as in Lee and Hon (1989). A closure gets the label of its stop (``"bcl"`` to ``"B"``). The glottal stop
    ``q``, which that paper leaves out, is silence, for every moment has a label here. Case and stress digits of the
    given label do not matter (``"AO1"``, ``"ao"``), and other labels are returned in upper case.

    So corpora aligned with the CMU dictionary and TIMIT can be compared: fold both. The dictionary has no flap:
    ``"DX"`` of TIMIT is T or D there.
    """
    upper = _STRESS.sub("", label.upper())
    return _FOLDED.get(upper, upper)


def fold_closures(alignment: Alignment) -> Alignment:
    """The alignment with TIMIT's 61 labels folded to 39 classes, one interval a stop.

    A closure and the stop behind it become one interval with the stop's label; so do ``dcl jh`` and ``tcl ch``. A
    closure without a release is its stop.
    """
    phones: list[Interval] = []
    labels = [phone.label for phone in alignment.phones]
    start: float | None = None  # of the closure that goes with the next phone
    for phone, following in zip(alignment.phones, [*labels[1:], ""], strict=True):
        begin = phone.start if start is None else start
        start = None
        if following.lower() in _RELEASES.get(phone.label.lower(), ()):
            start = begin
            continue
        phones.append(Interval(begin, phone.end, fold_timit(phone.label)))
    return replace(alignment, phones=tuple(phones))


def folded(find: Callable[[], Alignment], facts: dict[str, str]) -> Alignment:
    """What ``find`` returns, with its phones folded to 39 classes; ``facts`` go to its ``extra``."""
    return fold_closures(without_folding(find, facts))


def without_folding(find: Callable[[], Alignment], facts: dict[str, str]) -> Alignment:
    alignment = find()
    return replace(alignment, extra={**facts, **alignment.extra})

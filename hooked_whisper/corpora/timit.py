"""TIMIT: its label files, the usual 39 phones, and the corpus itself."""

from __future__ import annotations

from hooked_whisper.corpora.tiers import USUAL, Row, Tiers, make_alignment
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import SILENCE, Alignment

RATE = 16_000  # Hz; label files count samples

# 61 phones to 38 and silence. Source: Lee and Hon 1989, "Speaker-independent phone recognition using hidden Markov
# models", table II, as most publications on TIMIT use it.
_FOLDED = {
    "ao": "aa", "ax": "ah", "ax-h": "ah", "axr": "er", "hv": "hh", "ix": "ih", "el": "l", "em": "m", "en": "n",
    "nx": "n", "eng": "ng", "zh": "sh", "ux": "uw",
    **dict.fromkeys(["bcl", "dcl", "gcl", "pcl", "tcl", "kcl", "h#", "pau", "epi", "q"], SILENCE),
}  # fmt: skip


def fold_timit(label: str) -> str:
    """TIMIT's 61 phones to the usual 39, silence among them. Closures are silence; so is the glottal stop ``q``, which
    that set leaves out, for every moment has a label here."""
    return _FOLDED.get(label, label)


def from_timit(
    content: str, tier: str, utterance: str = "", speaker: str = "", tiers: Tiers = USUAL, source: str = "TIMIT"
) -> Alignment:
    """A ``.phn`` (``tier="phones"``) or ``.wrd`` (``"words"``) file: ``start end label``, in samples at 16 kHz.

    Words of TIMIT overlap where they share a phone ("had your"): there the second takes it.
    Raises :class:`AlignmentError`, naming the line.
    """
    rows = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            start, end, label = line.split(None, 2)
            rows.append(Row(int(start) / RATE, int(end) / RATE, label, f"line {number}"))
        except ValueError:
            raise AlignmentError(
                f"{source}, line {number}: expected `first-sample last-sample label`, got {line.strip()!r}"
            ) from None
    if tier == "words":
        return make_alignment(
            rows, [], source, utterance=utterance, speaker=speaker, tiers=tiers, shared_s=float("inf")
        )
    return make_alignment([], rows, source, utterance=utterance, speaker=speaker, tiers=tiers)

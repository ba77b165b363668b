"""CTM, as Kaldi and NIST have it: ``utterance channel start duration label [confidence ...]``, a tier of many
utterances in one file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from hooked_whisper.corpora.tiers import USUAL, Row, Tiers, make_alignment
from hooked_whisper.errors import AlignmentError, check_option
from hooked_whisper.protocols import Alignment

Tier = Literal["words", "phones"]
Lines = Sequence[tuple[int, str]]
"""Lines of one utterance, with their numbers in the file."""


def ctm_lines(content: str, source: str = "CTM") -> dict[str, Lines]:
    """The lines of each utterance, not yet read. Empty lines and comments (``;;``) are left out.

    Raises :class:`AlignmentError` for a file without any.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip() and not line.startswith(";;"):
            found.setdefault(line.split(None, 1)[0], []).append((number, line))
    if not found:
        raise AlignmentError(f"{source} has no lines of `utterance channel start duration label`")
    return dict(found)


def ctm_alignment(
    utterance: str, lines: Lines, tier: Tier, tiers: Tiers = USUAL, source: str = "CTM", speaker: str = ""
) -> Alignment:
    """Words or phones of one utterance; its duration is the end of the last.

    Raises :class:`AlignmentError`, naming the line, for a missing column or impossible times.
    """
    check_option("tier", tier, get_args(Tier), AlignmentError)
    rows = [_row(number, line, source) for number, line in lines]
    words, phones = (rows, []) if tier == "words" else ([], rows)
    return make_alignment(words, phones, source, utterance=utterance, speaker=speaker, tiers=tiers)


def from_ctm(content: str, tier: Tier, tiers: Tiers = USUAL, source: str = "CTM") -> dict[str, Alignment]:
    """All utterances of a file, words or phones: see :func:`ctm_alignment`."""
    check_option("tier", tier, get_args(Tier), AlignmentError)
    return {name: ctm_alignment(name, lines, tier, tiers, source) for name, lines in ctm_lines(content, source).items()}


def to_ctm(alignments: Iterable[Alignment], tier: Tier) -> str:
    """A file of the words or phones of some utterances, channel 1, times to the microsecond.

    Raises :class:`AlignmentError` for names or labels that are empty or have spaces in them: CTM has no way to write
    them.
    """
    check_option("tier", tier, get_args(Tier), AlignmentError)
    lines = []
    for alignment in alignments:
        for one in alignment.words if tier == "words" else alignment.phones:
            for text in (alignment.utterance, one.label):
                if len(text.split()) != 1 or text.split()[0] != text:
                    raise AlignmentError(f"CTM cannot hold {text!r}: names and labels must be words without spaces")
            lines.append(f"{alignment.utterance} 1 {one.start:.6f} {one.end - one.start:.6f} {one.label}\n")
    return "".join(lines)


def _row(number: int, line: str, source: str) -> Row:
    fields = line.split()
    try:
        _, _, start, duration, label, *_ = fields
        return Row(float(start), float(start) + float(duration), label, f"line {number}")
    except ValueError:
        raise AlignmentError(
            f"{source}, line {number}: expected `utterance channel start duration label`, got {line.strip()!r}"
        ) from None

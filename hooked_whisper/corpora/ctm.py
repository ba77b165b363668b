"""CTM files of Kaldi and NIST: one tier of many utterances, ``utterance channel start duration label [confidence ...]``
a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from hooked_whisper.corpora.tiers import USUAL, Row, Tiers, make_alignment
from hooked_whisper.errors import AlignmentError, check_option
from hooked_whisper.protocols import Alignment

Tier = Literal["words", "phones"]
Lines = Sequence[tuple[int, str]]
"""Line numbers and lines of one utterance."""


def ctm_lines(content: str, source: str = "CTM") -> dict[str, Lines]:
    """Group the lines of a file by utterance, without empty lines and comments (``;;``).

    Raises:
        AlignmentError: the file has no lines.
    """
    by_utterance: dict[str, list[tuple[int, str]]] = {}
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip() and not line.startswith(";;"):
            by_utterance.setdefault(line.split(None, 1)[0], []).append((number, line))
    if not by_utterance:
        raise AlignmentError(f"{source} has no lines of `utterance channel start duration label`")
    return dict(by_utterance)


def ctm_alignment(
    utterance: str, lines: Lines, tier: Tier, tiers: Tiers = USUAL, source: str = "CTM", speaker: str = ""
) -> Alignment:
    """Read the words or phones of one utterance; its duration is the end of the last interval.

    Raises:
        AlignmentError: a column is missing or times are impossible; the message names the line.
    """
    check_option("tier", tier, get_args(Tier), AlignmentError)
    rows = [_row(number, line, source) for number, line in lines]
    words, phones = (rows, []) if tier == "words" else ([], rows)
    return make_alignment(words, phones, source, utterance=utterance, speaker=speaker, tiers=tiers)


def from_ctm(content: str, tier: Tier, tiers: Tiers = USUAL, source: str = "CTM") -> dict[str, Alignment]:
    """Read the words or phones of all utterances of a file, as :func:`ctm_alignment` does."""
    check_option("tier", tier, get_args(Tier), AlignmentError)
    return {name: ctm_alignment(name, lines, tier, tiers, source) for name, lines in ctm_lines(content, source).items()}


def to_ctm(alignments: Iterable[Alignment], tier: Tier) -> str:
    """Write the words or phones of utterances as channel 1, with times to the microsecond.

    Raises:
        AlignmentError: a name or label is empty or has spaces, which CTM cannot represent.
    """
    check_option("tier", tier, get_args(Tier), AlignmentError)
    lines = []
    for alignment in alignments:
        for interval in alignment.words if tier == "words" else alignment.phones:
            for text in (alignment.utterance, interval.label):
                if len(text.split()) != 1 or text.split()[0] != text:
                    raise AlignmentError(f"CTM cannot hold {text!r}: names and labels must be words without spaces")
            lines.append(
                f"{alignment.utterance} 1 {interval.start:.6f} {interval.end - interval.start:.6f} {interval.label}\n"
            )
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

"""Label files of TIMIT and HTK: ``start end label`` a line, in samples at 16 kHz or in units of 100 ns."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Literal, get_args

from hooked_whisper.corpora.tiers import USUAL, Row, Tiers, make_alignment
from hooked_whisper.errors import AlignmentError, check_option
from hooked_whisper.protocols import Alignment

log = logging.getLogger(__name__)

TIMIT_RATE = 16_000  # samples a second
HTK_RATE = 10_000_000  # units of 100 ns a second
MASTER_LABELS = "#!MLF!#"  # first line of an HTK file with the labels of many recordings
# Times count as HTK's if all are multiples of 0.1 ms in its units (aligners count frames) and the last is 0.1 s or more
# there, which is 62.5 s in TIMIT's samples; or if the last is an hour or more in TIMIT's samples.
_HTK_STEP, _HTK_LEAST, _TIMIT_MOST = 1_000, 1_000_000, 3_600 * TIMIT_RATE

_LINE = re.compile(r"\s*\d+\s+\d+\s+\S")

LabelTier = Literal["words", "phones"]


def from_timit(
    content: str,
    tier: LabelTier,
    utterance: str = "",
    speaker: str = "",
    tiers: Tiers = USUAL,
    source: str = "TIMIT",
) -> Alignment:
    """Read a label file of TIMIT, such as ``.phn`` (``tier="phones"``) or ``.wrd`` (``"words"``), or of HTK (``.lab``).

    The format is detected from the times. Scores and further columns of HTK are ignored. Words of TIMIT overlap where
    they share a phone ("had your"): the second word gets the shared time.

    Raises:
        AlignmentError: a line that is not ``start end label``, impossible times, or an HTK master label file; the
            message names the line.
    """
    check_option("tier", tier, get_args(LabelTier), AlignmentError)
    if content.startswith(MASTER_LABELS):
        raise AlignmentError(
            f"{source} is an HTK master label file (MLF), with the labels of many recordings, which is not supported: "
            "write one label file for each recording"
        )
    labels = []
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            start, end, label = line.split(None, 2)
            labels.append((int(start), int(end), label, number))
        except ValueError:
            raise AlignmentError(
                f"{source}, line {number}: expected `start end label`, the times in samples (TIMIT) or in units of "
                f"100 ns (HTK), got {line.strip()!r}"
            ) from None
    htk = _is_htk([time for start, end, *_ in labels for time in (start, end)])
    if htk:
        log.info("%s: times in units of 100 ns (HTK)", source)
    rate = HTK_RATE if htk else TIMIT_RATE
    rows = [
        Row(start / rate, end / rate, _without_score(label) if htk else label, f"line {number}")
        for start, end, label, number in labels
    ]
    if tier == "words":
        return make_alignment(
            rows, [], source, utterance=utterance, speaker=speaker, tiers=tiers, shared_s=float("inf")
        )
    return make_alignment([], rows, source, utterance=utterance, speaker=speaker, tiers=tiers)


def is_label_file(content: str) -> bool:
    """Whether every line is ``start end label`` with whole numbers, or the file is an HTK master label file."""
    lines = [line for line in content.split("\n") if line.strip()]
    return content.startswith(MASTER_LABELS) or (len(lines) > 0 and all(map(_LINE.match, lines)))


def _is_htk(times: Sequence[int]) -> bool:
    last = max(times, default=0)
    return last >= _TIMIT_MOST or (last >= _HTK_LEAST and not any(time % _HTK_STEP for time in times))


def _without_score(label: str) -> str:
    """``"ih -102.5 [word]" -> "ih"``; a label without a score stays as it is."""
    name, *columns = label.split()
    try:
        float(columns[0])
    except (IndexError, ValueError):
        return label
    return name

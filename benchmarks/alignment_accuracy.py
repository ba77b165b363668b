"""Accuracy of forced alignment against hand labels: ``python benchmarks/alignment_accuracy.py TIMIT [--out FILE]``.

TIMIT is a folder with ``.wav``, ``.txt``, ``.wrd`` and ``.phn`` files, at any depth: the corpus, or NLTK's sample
of it (``nltk.download("timit")``). Reports the errors of word starts and ends, the share of 10 ms frames whose phone
matches the hand labels, the speed, and the phone error rate of letter-to-sound on words held out of the dictionary.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hooked_whisper.audio import load_audio
from hooked_whisper.corpora import align_recording, cmu_dictionary, read_alignment
from hooked_whisper.corpora.forced_alignment import aligner_name
from hooked_whisper.corpora.letter_to_sound import LETTERS, LetterToSound, phone_errors
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import SILENCE, Alignment, Interval

FRAME_S = 0.01
HELD_OUT = 20  # hold out one word in this many
# TIMIT's labels in the dictionary's phones. Closures belong to their stops; flaps are T; a glottal stop has none.
_CLOSURES = {"bcl": "B", "dcl": "D", "gcl": "G", "pcl": "P", "tcl": "T", "kcl": "K"}
_LABELS = _CLOSURES | {
    "ix": "IH", "ax": "AH", "axr": "ER", "ax-h": "AH", "ux": "UW", "hv": "HH", "nx": "N", "dx": "T", "el": "L",
    "en": "N", "em": "M", "eng": "NG", "q": "", "epi": SILENCE, "pau": SILENCE, "h#": SILENCE,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("timit", type=Path, metavar="TIMIT", help="folder with .wav, .txt, .wrd and .phn files")
    parser.add_argument("--source", default="", help="what the recordings are, for the record")
    parser.add_argument("--out", type=Path, help="JSON file (default: the screen)")
    parser.add_argument("--words", type=int, default=0, metavar="N", help="held-out words of the dictionary (0: all)")
    parsed = parser.parse_args()
    result = {
        "aligner": aligner_name(),
        "source": parsed.source or parsed.timit.name,
        **alignment_accuracy(parsed.timit),
        "letter_to_sound": letter_to_sound_accuracy(parsed.words),
    }
    text = json.dumps(result, indent=1) + "\n"
    if parsed.out:
        parsed.out.write_text(text)
    print(text)


def alignment_accuracy(folder: Path) -> dict[str, Any]:
    """Accuracy over all recordings: distances in ms, shares from 0 to 1."""
    errors: list[float] = []
    agreed = spoken = 0
    seconds = took = 0.0
    failures = []
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".wav")
    for path in files:
        samples, text = load_audio(path), " ".join(path.with_suffix(".txt").read_text().split()[2:])
        began = time.process_time()
        try:
            alignment = align_recording(samples, text)
        except AlignmentError as error:
            failures.append({"id": str(path.relative_to(folder)), "reason": str(error)})
            continue
        took += time.process_time() - began
        seconds += alignment.duration
        words, phones = (read_alignment(path.with_suffix(end)) for end in (".wrd", ".phn"))
        for word, hand in zip(alignment.words, _hand_words(alignment, words), strict=True):
            errors += [word.start - hand.start, word.end - hand.end]
        counts = _agreement(alignment, phones)
        agreed, spoken = agreed + counts[0], spoken + counts[1]
    distances = 1000 * np.abs(errors)
    return {
        "recordings": len(files),
        "failures": failures,
        "seconds": round(seconds, 1),
        "words": len(errors) // 2,
        "word_boundaries": {
            "median_ms": round(float(np.median(distances)), 1),
            "mean_ms": round(float(distances.mean()), 1),
            "signed_median_ms": round(1000 * float(np.median(errors)), 1),
            "within_20_ms": round(float((distances <= 20).mean()), 3),
            "within_50_ms": round(float((distances <= 50).mean()), 3),
            "within_100_ms": round(float((distances <= 100).mean()), 3),
        },
        "phone_frames": {"agreement": round(agreed / spoken, 4), "frames": spoken},
        "cpu_seconds_per_second": round(took / seconds, 3),
    }


def _hand_words(alignment: Alignment, hand: Alignment) -> list[Interval]:
    """Return the hand labels of each word. A hyphenated word has several."""
    labels = list(hand.words)
    joined = []
    for word in alignment.words:
        n = len([part for part in word.label.split("-") if part])
        n = 1 if "-" in (labels[0].label if labels else "") else n
        parts, labels = labels[:n], labels[n:]
        joined.append(Interval(parts[0].start, parts[-1].end, word.label))
    if labels:
        raise SystemExit(f"{hand.utterance}: the hand labels have other words than the text: {hand.text!r}")
    return joined


def _agreement(alignment: Alignment, hand: Alignment) -> tuple[int, int]:
    """Return the number of frames whose phone matches the hand label, and of frames that have a hand label."""
    centers = np.arange(FRAME_S / 2, min(alignment.duration, hand.duration), FRAME_S)
    ours = _labels_at(alignment.phones, centers)
    theirs = [_LABELS.get(label, label.upper()) for label in _labels_at(hand.phones, centers)]
    spoken = [(a, b) for a, b in zip(ours, theirs, strict=True) if b not in (SILENCE, "")]
    return sum(a == b for a, b in spoken), len(spoken)


def _labels_at(intervals: Sequence[Interval], times: np.ndarray) -> list[str]:
    starts = np.array([interval.start for interval in intervals])
    return [intervals[k].label if k >= 0 else SILENCE for k in np.searchsorted(starts, times, side="right") - 1]


def letter_to_sound_accuracy(most: int = 0) -> dict[str, Any]:
    """Phone errors per phone of the closest given pronunciation, on one word in twenty that was not learned from.

    Relatives of such a word (plurals, names with the same ending) may be among the learned ones.
    """
    dictionary = {word: variants for word, variants in cmu_dictionary().words.items() if set(word) <= set(LETTERS)}
    held_out = [word for word in dictionary if zlib.crc32(word.encode()) % HELD_OUT == 0]
    learned = {word: variants[0] for word, variants in dictionary.items() if zlib.crc32(word.encode()) % HELD_OUT}
    began = time.process_time()
    model = LetterToSound.learned_from(learned)
    seconds = time.process_time() - began
    words = held_out[:: max(1, len(held_out) // most)] if most else held_out
    errors = phones = wrong = 0
    for word in words:
        guess = model(word)
        closest = min(dictionary[word], key=lambda variant: phone_errors(guess, variant))
        count = phone_errors(guess, closest)
        errors, phones, wrong = errors + count, phones + len(closest), wrong + bool(count)
    return {
        "learned_words": len(learned),
        "held_out_words": len(words),
        "phone_error_rate": round(errors / phones, 4),
        "word_error_rate": round(wrong / len(words), 4),
        "learning_cpu_seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()

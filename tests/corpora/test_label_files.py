"""Label files of TIMIT and HTK: units of time, folding of phones, and labels beside audio."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.corpora import PHONES, Tiers, audio_folder, fold_closures, fold_timit, from_timit, read_alignment
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import SILENCE, Interval


def test_timit_labels():
    content = "0 1600 h#\n1600 2400 bcl\n2400 3200 b\n3200 4800 ix\n4800 5600 q\n5600 8000 zh\n"
    raw = from_timit(content, "phones")
    assert [p.label for p in raw.phones] == [SILENCE, "bcl", "b", "ix", "q", "zh"]
    assert raw.phones[1] == Interval(0.1, 0.15, "bcl") and raw.duration == 0.5
    folded = from_timit(content, "phones", tiers=Tiers(relabel=fold_timit))
    assert [p.label for p in folded.phones] == [SILENCE, "B", "B", "IH", SILENCE, "SH"]
    joined = fold_closures(raw)
    assert [p.label for p in joined.phones] == [SILENCE, "B", "IH", SILENCE, "SH"]
    assert (joined.phones[1].start, joined.phones[1].end) == (raw.phones[1].start, raw.phones[2].end)
    with pytest.raises(AlignmentError, match="line 2"):
        from_timit("0 1600 h#\n1600 b\n", "phones")


HTK = "0 1000000 sil -58.25\n1000000 2500000 ay -102.5 hi\n2500000 10000000 sil\n"


@pytest.mark.parametrize("name", ["a.lab", "a.phn", "a.txt"])
def test_htk_labels_are_in_units_of_100_ns(tmp_path: Path, name: str):
    (tmp_path / name).write_text(HTK)
    alignment = read_alignment(tmp_path / name)
    assert [(p.start, p.end, p.label) for p in alignment.phones] == [
        (0, 0.1, "SIL"),
        (0.1, 0.25, "ay"),
        (0.25, 1, "SIL"),
    ]
    assert alignment.duration == 1.0
    (tmp_path / "a.wrd").write_text("1000000 2500000 hi\n")
    assert read_alignment(tmp_path / "a.wrd").words == (Interval(0.1, 0.25, "hi"),)


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        ("0 16000 a b\n", 1.0),  # TIMIT: one second
        ("0 1600000 a\n", 0.16),  # HTK: TIMIT would be 100 s
        ("0 1600001 a\n", 1600001 / 16_000),  # no frames of HTK: a long recording in samples
        ("0 99999999 a\n", 9.9999999),  # HTK, not in frames: TIMIT would be 1.7 hours
    ],
)
def test_times_tell_timit_from_htk(content: str, seconds: float):
    assert from_timit(content, "phones").duration == pytest.approx(seconds)


def test_htk_labels_beside_audio_are_no_transcript(tmp_path: Path):
    master = '#!MLF!#\n"*/d.lab"\n0 100 a\n.\n'
    for name, content in {"a": HTK, "b": "1 2 three", "c": "hello\nthere", "d": master}.items():
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(16_000), 16_000)
        (tmp_path / f"{name}.lab").write_text(content)
    htk, digits, text, of_many = audio_folder(tmp_path)
    alignment = htk.alignment()
    assert htk.text == "" and alignment is not None and [p.label for p in alignment.phones] == ["SIL", "ay", "SIL"]
    assert digits.text == "1 2 three" and text.text == "hello there" and digits.alignment() is text.alignment() is None
    with pytest.raises(AlignmentError, match=r"d\.lab.*MLF"):
        of_many.alignment()


def test_timit_folds_61_phones_to_39():
    names = """aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv ih ix iy
        jh k kcl l m n ng nx ow oy p pau pcl q r s sh t tcl th uh uw ux v w y z zh"""
    phones = names.split()
    assert len(phones) == 61 and len({fold_timit(p) for p in phones}) == 39
    assert {fold_timit(fold_timit(p)) for p in phones} == {fold_timit(p) for p in phones}

    assert {fold_timit(p) for p in PHONES} <= {fold_timit(p) for p in phones}  # the CMU dictionary's
    others = {"AO1": "AA", "zh": "SH", "AX": "AH", "DX": "DX", "SIL": SILENCE, "h#": SILENCE, "spn": "SPN"}
    assert {label: fold_timit(label) for label in others} == others


STOPS = ["bcl", "b", "dcl", "d", "jh", "tcl", "t", "ch", "kcl", "aa", "q", "h#", "epi"]


@given(st.lists(st.sampled_from(STOPS), min_size=1, max_size=12))
def test_folding_joins_closures_and_keeps_every_moment(labels: list[str]) -> None:
    content = "".join(f"{1600 * k} {1600 * (k + 1)} {label}\n" for k, label in enumerate(labels))
    raw, joined = (fold(from_timit(content, "phones")) for fold in (lambda a: a, fold_closures))
    releases = {"bcl": "b", "dcl": "d jh", "tcl": "t ch", "kcl": "k"}
    n_joined = sum(b in releases.get(a, "").split() for a, b in pairwise(labels))
    assert len(joined.phones) == len(raw.phones) - n_joined
    assert joined.phones[0].start == 0 and joined.phones[-1].end == raw.phones[-1].end
    assert all(a.end == b.start for a, b in pairwise(joined.phones))
    labels_by_end = {phone.end: phone.label for phone in joined.phones}  # a stop is named by its release
    assert all(labels_by_end[p.end] == fold_timit(p.label) for p in raw.phones if p.end in labels_by_end)


def test_timit_words_that_share_a_phone_are_separated():
    (had, your) = from_timit("11362 16000 had\n15420 17503 your\n", "words").words
    assert had.end == your.start == 15420 / 16000

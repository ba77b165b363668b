"""Articulation: one table for two alphabets, a metric distance, narrow classes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import AlignmentError
from hooked_whisper.features.phones.articulation import articulation, articulatory_distance, classes, distances
from hooked_whisper.protocols import SILENCE
from hooked_whisper.synthetic.phones import ARPABET, PHONES, VOWELS

TIMIT = (
    *("iy", "ih", "eh", "ey", "ae", "aa", "aw", "ay", "ah", "ao", "oy", "ow", "uh", "uw", "ux", "er", "ax", "ix"),
    *("axr", "ax-h", "jh", "ch", "b", "d", "g", "p", "t", "k", "dx", "s", "sh", "z", "zh", "f", "th", "v", "dh", "m"),
    *("n", "ng", "em", "en", "eng", "nx", "l", "r", "w", "y", "hh", "hv", "el", "bcl", "dcl", "gcl", "pcl", "tcl"),
    *("kcl", "q"),
)
phones = st.sampled_from([*PHONES, *TIMIT])


def test_ipa_and_arpabet_agree() -> None:
    for arpabet, ipa in ARPABET.items():
        assert articulation(arpabet) == articulation(ipa)
    assert {p for p in PHONES if articulation(p).kind == "vowel"} == VOWELS
    assert all(articulation(p) for p in TIMIT)


def test_marks_case_and_stress_do_not_matter() -> None:
    for same in (["ˈiː", "i", "iy", "IY1", "iy0"], ["AX-H", "ə"], ["ɑːɹ", "aa"], ["ɹ", "R"], ["HH", "h"]):
        assert len({articulation(label) for label in same}) == 1, same


@pytest.mark.parametrize("label", [SILENCE, "", "spn", "h#", "1", "ɹɹɹ", "iy3"])
def test_other_labels_have_no_articulation(label: str) -> None:
    assert articulation(label) is None
    with pytest.raises(AlignmentError, match="no articulation"):
        articulatory_distance(label, "s")


@given(phones, phones, phones)
def test_distance_is_a_metric(a: str, b: str, c: str) -> None:
    d = articulatory_distance
    assert d(a, a) == 0 and 0 <= d(a, b) == d(b, a) <= 1
    assert d(a, c) <= d(a, b) + d(b, c) + 1e-9


def test_known_distances() -> None:
    assert articulatory_distance("p", "b") == pytest.approx(1 / 3)
    assert articulatory_distance("p", "z") == 1 and articulatory_distance("p", "i") == 1
    assert articulatory_distance("i", "u") == pytest.approx(2 / 4)
    table = distances(["p", SILENCE, "b"])
    assert np.isnan(table[1]).all() and np.isnan(table[:, 1]).all() and table[0, 2] == pytest.approx(1 / 3)
    assert distances([]).shape == (0, 0)


@given(st.sets(phones))
def test_classes_are_narrow(names: set[str]) -> None:
    for members in classes([*names, SILENCE, "?"]).values():
        assert members <= names and 2 <= len(members) <= len(names) / 3


def test_the_classes_of_english() -> None:
    groups = classes([SILENCE, *PHONES])
    assert groups["voiceless stops"] == {"p", "t", "k"} and groups["nasals"] == {"m", "n", "ŋ"}
    assert groups["sibilants"] == {"s", "z", "ʃ", "ʒ", "tʃ", "dʒ"}
    assert groups["non-sibilant fricatives"] == {"f", "v", "θ", "ð", "h"}
    assert groups["high front vowels"] == {"i", "ɪ"} and groups["diphthongs"] == {"eɪ", "aɪ", "ɔɪ", "aʊ", "oʊ"}
    assert groups["velars"] == {"k", "ɡ", "ŋ", "w"} and set().union(*groups.values()) >= set(PHONES) - {"n", "d", "t"}

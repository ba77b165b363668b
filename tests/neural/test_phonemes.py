"""Text to phones: one group a word, each phone in the tables, boundaries where espeak-ng joins words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.errors import AlignmentError
from hooked_whisper.neural.phonemes import Phone, phonemize, share_units, split_words, to_phones
from hooked_whisper.neural.plan import make_plan
from hooked_whisper.neural.tables import phone_table

NAMES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
ENGLISH = set(NAMES.split())
GROUPS = st.lists(st.lists(st.sampled_from("aeioukst"), min_size=1, max_size=4), min_size=1, max_size=6)


def test_the_table_gives_each_phone_symbols_and_a_label_of_the_39() -> None:
    pairs = [pair for pairs in phone_table("en").values() for pair in pairs]
    assert {label for _, label in pairs} == ENGLISH
    assert all(symbols for symbols, _ in pairs)


def test_every_planned_text_has_a_group_of_phones_for_each_word() -> None:
    for planned in make_plan()[::45]:
        for text in planned.texts:
            words = phonemize(text, planned.language).words
            assert [word.text for word in words] == split_words(text)[0]
            assert all(word.phones for word in words)
            labels = {phone.label for word in words for phone in word.phones}
            assert planned.language != "en" or labels <= ENGLISH


def test_contractions_are_split_into_words() -> None:
    phonemes = phonemize("The end of the road, for an hour.")
    by_word = [(word.text, [phone.label for phone in word.phones]) for word in phonemes.words]
    assert ("of", ["AH", "V"]) in by_word and by_word[3] == ("the", ["DH", "AH"])
    assert by_word[5:7] == [("for", ["F", "ER"]), ("an", ["AH", "N"])]
    assert phonemes.joined >= 2
    assert [word.mark for word in phonemes.words] == ["", "", "", "", ",", "", "", "."]
    assert phonemes.symbols.count(" ") == 7 and phonemes.symbols.endswith(".")


def test_stress_belongs_to_the_first_phone_of_a_unit() -> None:
    assert to_phones("ˈɑːɹ") == [Phone("ˈɑ", "AA"), Phone("ɹ", "R")]
    assert to_phones("œ̃", "fr") == [Phone("œ̃", "œ̃")]
    with pytest.raises(AlignmentError, match="œ"):
        to_phones("œ", "en")


def test_a_text_without_words_is_refused() -> None:
    with pytest.raises(AlignmentError, match="no words"):
        phonemize("- !")


@given(GROUPS, GROUPS)
def test_units_are_shared_out_in_order_and_completely(spoken: list[list[str]], alone: list[list[str]]) -> None:
    units = [unit for group in spoken for unit in group]
    if len(units) < len(alone) and len(spoken) != len(alone):
        with pytest.raises(AlignmentError, match="phones for"):
            share_units(spoken, alone)
        return
    shared = share_units(spoken, alone)
    assert len(shared) == len(alone) and all(shared)
    assert [unit for group in shared for unit in group] == units


@given(GROUPS)
def test_words_said_as_alone_get_their_own_units(alone: list[list[str]]) -> None:
    merged = [[unit for group in alone for unit in group]]
    costless = share_units(merged, alone)
    assert sum(len(group) for group in costless) == len(merged[0])
    if len({tuple(group) for group in alone}) == len(alone) == 2 and not set(alone[0]) & set(alone[1]):
        assert costless == [tuple(group) for group in alone]

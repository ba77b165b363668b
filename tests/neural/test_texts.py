"""The sentence lists of the packaged speech: phones, minimal pairs, single tokens, and frames that hide the class."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from whisper.tokenizer import get_tokenizer

from hooked_whisper.neural.tables import TEXTS, read_table

VOWEL_NAMES = "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW"
CONSONANT_NAMES = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH"
VOWELS = set(VOWEL_NAMES.split())
ENGLISH_PHONES = VOWELS | set(CONSONANT_NAMES.split())
FOREIGN = ("es", "fr", "it", "pt")
COLUMNS = {
    "prose": ("id", "split", "text"),
    "pairs": ("id", "position", "word_a", "word_b", "phone_a", "phone_b", "frame"),
    "conflict": ("id", "context", "expected", "other"),
    "semantic": ("id", "class", "word", "text"),
    "fragments": ("id", "text"),
    "windows": ("id", "text"),
    "voices": ("voice", "language", "sex", "split"),
} | {language: ("id", "text") for language in FOREIGN}


@cache
def table(name: str) -> tuple[dict[str, str], ...]:
    return tuple(read_table(TEXTS / f"{name}.tsv"))


@cache
def dictionary() -> dict[str, tuple[str, ...]]:
    """First pronunciation of each word in pocketsphinx's dictionary."""
    pocketsphinx = pytest.importorskip("pocketsphinx")
    path = Path(pocketsphinx.get_model_path()) / "en-us" / "cmudict-en-us.dict"
    entries = (line.split() for line in path.read_text("utf-8").splitlines())
    return {word: tuple(phones) for word, *phones in entries if "(" not in word}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def phone_counts(texts: list[str]) -> Counter[str]:
    return Counter(phone for text in texts for word in words(text) for phone in dictionary()[word])


def is_single_token(word: str) -> bool:
    return all(len(get_tokenizer(multilingual).encode(f" {word}")) == 1 for multilingual in (False, True))


def english_texts() -> list[str]:
    return [
        *(row["text"] for name in ("prose", "semantic", "fragments") for row in table(name)),
        *(row["text"].replace(" | ", " ") for row in table("windows")),
        *(row["frame"].replace("_", row[f"word_{side}"]) for row in table("pairs") for side in "ab"),
        *(f"{row['context']} {row[last]}." for row in table("conflict") for last in ("expected", "other")),
    ]


@pytest.mark.parametrize("name", COLUMNS)
def test_the_columns_are_the_stated_ones_and_the_first_is_a_key(name):
    assert all(tuple(row) == COLUMNS[name] for row in table(name))
    keys = [row[COLUMNS[name][0]] for row in table(name)]
    assert len(set(keys)) == len(keys)
    assert all(cell and cell == " ".join(cell.split()) for row in table(name) for cell in row.values())


def test_english_texts_are_plain_and_no_two_are_alike():
    texts = english_texts()
    assert [text for text in texts if not re.fullmatch(r"[A-Za-z ,'.]+", text)] == []
    assert [text for text, count in Counter(texts).items() if count > 1] == []
    assert {word for text in texts for word in words(text)} <= dictionary().keys()


def test_prose_sentences_are_8_to_14_words_of_a_large_vocabulary():
    assert Counter(row["split"] for row in table("prose")) == {"train": 260, "held-out": 80}
    texts = [row["text"] for row in table("prose")]
    assert [text for text in texts if not (8 <= len(words(text)) <= 14 and re.fullmatch(r"[A-Z][^.]+\.", text))] == []
    assert len({word for text in texts for word in words(text)}) >= 1200


@pytest.mark.parametrize(("splits", "least"), [(("train", "held-out"), 100), (("held-out",), 20)])
def test_prose_holds_every_phone_often_enough(splits, least):
    counts = phone_counts([row["text"] for row in table("prose") if row["split"] in splits])
    assert {phone: counts[phone] for phone in ENGLISH_PHONES if counts[phone] < least} == {}
    assert set(counts) == ENGLISH_PHONES


def test_each_pair_differs_in_the_stated_phone_alone():
    for row in table("pairs"):
        first, second = dictionary()[row["word_a"]], dictionary()[row["word_b"]]
        assert len(first) == len(second), row
        places = [place for place, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
        assert len(places) == 1, row
        place = places[0]
        assert (first[place], second[place]) == (row["phone_a"], row["phone_b"]), row
        nucleus = next(index for index, phone in enumerate(first) if phone in VOWELS)
        position = "vowel" if place == nucleus else "onset" if place < nucleus else "coda"
        assert position == row["position"], row
        assert (row["phone_a"] in VOWELS) == (row["phone_b"] in VOWELS), row


def test_pairs_cover_the_positions_with_many_contrasts_and_frames():
    assert Counter(row["position"] for row in table("pairs")) == {"onset": 70, "vowel": 70, "coda": 70}
    contrasts = {frozenset((row["phone_a"], row["phone_b"])) for row in table("pairs")}
    assert len(contrasts) >= 120
    assert {phone for contrast in contrasts for phone in contrast} >= ENGLISH_PHONES - {"DH", "ZH"}
    assert len({row["frame"] for row in table("pairs")}) >= 14


def test_pairs_are_unordered_unique_and_no_word_is_overused():
    pairs = [frozenset((row["word_a"], row["word_b"])) for row in table("pairs")]
    assert len(set(pairs)) == len(pairs)
    assert max(Counter(word for pair in pairs for word in pair).values()) <= 4


def test_the_word_of_a_pair_is_inside_its_frame():
    for row in table("pairs"):
        parts = row["frame"].split()
        assert parts.count("_") == 1 and 0 < parts.index("_") < len(parts) - 1, row
        assert not {"a", "an"} & {parts[parts.index("_") - 1]}, row


def test_conflict_words_are_single_tokens_that_start_differently():
    rows = table("conflict")
    assert len(rows) >= 80
    for row in rows:
        assert row["context"][-1].isalpha(), row
        assert is_single_token(row["expected"]) and is_single_token(row["other"]), row
        assert dictionary()[row["expected"]][0] != dictionary()[row["other"]][0], row
    assert max(Counter(row[last] for row in rows for last in ("expected", "other")).values()) <= 5


def test_eight_semantic_classes_of_ten_single_tokens_in_two_sentences_each():
    rows = table("semantic")
    assert len({row["class"] for row in rows}) == 8
    assert {"numbers", "motion", "animals"} <= {row["class"] for row in rows}
    assert set(Counter((row["class"], row["word"]) for row in rows).values()) == {2}
    classes = {row["word"]: row["class"] for row in rows}
    assert set(Counter(classes.values()).values()) == {10}
    assert [word for word in classes if not is_single_token(word)] == []


def test_neither_place_nor_neighbors_tell_the_semantic_class():
    """Every frame holds each class equally often: its mutual information with the class is zero."""
    frames: Counter[tuple[str, str]] = Counter()
    places: dict[str, list[float]] = {}
    for row in table("semantic"):
        parts = [part.rstrip(".") for part in row["text"].split()]
        assert parts.count(row["word"]) == 1, row
        place = parts.index(row["word"])
        parts[place] = "_"
        frames[" ".join(parts), row["class"]] += 1
        places.setdefault(row["class"], []).append(place / (len(parts) - 1))
    classes = set(places)
    assert len({frame for frame, _ in frames}) >= 16
    for frame in {frame for frame, _ in frames}:
        assert len({frames[frame, name] for name in classes}) == 1, frame
    for values in places.values():
        assert min(values) < 0.3 and max(values) == 1 and any(0.4 < value < 0.7 for value in values)


def test_fragments_are_short_and_share_words():
    texts = [row["text"] for row in table("fragments")]
    assert len(texts) == 150 and all(1 <= len(words(text)) <= 3 for text in texts)
    assert sum(count >= 3 for count in Counter(word for text in texts for word in set(words(text))).values()) >= 40


def test_windows_are_of_sentences_short_enough_to_fill_25_to_29_seconds():
    """At about 2.8 words a second, sentences of at most 12 words (4.3 s) leave no gap wider than the tolerance."""
    assert len(table("windows")) == 12
    for row in table("windows"):
        sentences = row["text"].split(" | ")
        assert all(re.fullmatch(r"[A-Z][^.|]+\.", sentence) for sentence in sentences), row["id"]
        assert max(len(words(sentence)) for sentence in sentences) <= 12, row["id"]
        assert sum(len(words(sentence)) for sentence in sentences) >= 90, row["id"]


@pytest.mark.parametrize("language", FOREIGN)
def test_foreign_sentences_are_8_to_12_words(language):
    texts = [row["text"] for row in table(language)]
    assert len(set(texts)) == 20
    assert [text for text in texts if not (8 <= len(text.split()) <= 12 and text.endswith("."))] == []
    assert any(not text.isascii() for text in texts)


def test_voice_names_encode_language_and_sex_and_two_english_voices_are_held_out():
    voices = table("voices")
    assert all(row["sex"] == {"f": "female", "m": "male"}[row["voice"][1]] for row in voices)
    languages = {"a": "en", "b": "en", "e": "es", "f": "fr", "i": "it", "p": "pt"}
    assert all(row["language"] == languages[row["voice"][0]] for row in voices)
    assert {row["language"] for row in voices} == {"en", *FOREIGN}
    held_out = [row for row in voices if row["split"] == "held-out"]
    assert sorted((row["language"], row["sex"]) for row in held_out) == [("en", "female"), ("en", "male")]
    assert sum(row["language"] == "en" for row in voices) >= 10

"""Both synthesizers: correct intervals, words in order, and one set of labels."""

from __future__ import annotations

import numpy as np
import pytest

from hooked_whisper.protocols import SILENCE, Alignment
from hooked_whisper.synthetic import flite, voices
from hooked_whisper.synthetic.lexicon import CLASS_OF, CONTENT_CLASSES, WORDS
from hooked_whisper.synthetic.phones import PHONES, VOWELS, from_espeak, from_flite
from hooked_whisper.synthetic.sounds import Sounds, minimal_pairs, pronounce
from tests.synthetic.conftest import needs_flite

SENTENCE = "at the park a very good duck took hot tea"


def check(audio: np.ndarray, alignment: Alignment) -> None:
    assert audio.dtype == np.float32 and np.abs(audio).max() <= 1.5
    assert alignment.duration == len(audio) / voices.SAMPLE_RATE
    assert [w.label for w in alignment.words] == alignment.text.split()
    end = 0.0
    for phone in alignment.phones:  # they tile the utterance
        assert abs(phone.start - end) < 1e-9 and phone.end >= phone.start
        assert phone.label in (*PHONES, SILENCE)
        end = phone.end
    assert abs(end - alignment.duration) < 1e-9
    starts = {p.start for p in alignment.phones}
    for before, after in zip(alignment.words[:-1], alignment.words[1:], strict=True):
        assert before.start < before.end <= after.start
    assert all(word.start in starts for word in alignment.words)


@needs_flite
@pytest.mark.parametrize("speaker", voices.SPEAKERS, ids=lambda s: s.id)
def test_every_speaker_has_words_in_order(speaker: voices.Speaker):
    check(*voices.speak(SENTENCE, speaker))


@needs_flite
@pytest.mark.parametrize("speaker", ["us-m0", "rp-f4", "flite-kal", "flite-slt", "flite-rms"])
def test_vowels_are_loud_and_silences_are_not(speaker: str):
    audio, alignment = voices.speak(SENTENCE, voices.BY_ID[speaker])
    power = {"vowel": [], SILENCE: []}
    for phone in alignment.phones:
        kind = "vowel" if phone.label in VOWELS else phone.label
        middle = slice(int(phone.start * 16000 + 160), int(phone.end * 16000 - 160))
        if kind in power and phone.duration > 0.05:
            power[kind].append(float(np.mean(audio[middle] ** 2)))
    assert np.median(power["vowel"]) > 100 * max(np.median(power[SILENCE]), 1e-9)


def test_closures_belong_to_the_stop():
    """Inside a word espeak's closure is digital silence: it must lie in the stop, not in the vowel before it."""
    audio, alignment = voices.speak("doctor", voices.BY_ID["us-m0"])
    stop = next(p for p in alignment.phones if p.label == "k")
    before = audio[int((stop.start - 0.02) * 16000) : int(stop.start * 16000)]
    inside = audio[int((stop.start + 0.005) * 16000) : int((stop.start + 0.02) * 16000)]
    assert np.abs(before).max() > 20 * np.abs(inside).max()


@needs_flite
def test_tempo_and_pitch_change_the_sound():
    slow, _ = voices.speak("red bus", voices.BY_ID["us-m0"], tempo=0.8)
    fast, _ = voices.speak("red bus", voices.BY_ID["us-m0"], tempo=1.3)
    assert len(slow) > 1.2 * len(fast)
    low, _ = voices.speak("red bus", voices.BY_ID["flite-slt-low"])
    high, _ = voices.speak("red bus", voices.BY_ID["flite-slt-high"])
    assert not np.array_equal(low[:8000], high[:8000])


@needs_flite
def test_flite_phones_match_those_of_single_words():
    for word in ("important", "butter", "jug"):
        together = flite.say(f"the {word} again", "kal16")
        assert [w.label for w in together.words] == ["the", word, "again"]


def test_unknown_phones_and_voices_are_errors():
    assert from_espeak("ˈɑːɹ") == "ɑ" and from_flite("hh") == "h" and from_flite("pau") == SILENCE
    for call in (lambda: from_espeak("☃"), lambda: from_flite("zz")):
        with pytest.raises(ValueError, match="common set"):
            call()
    with pytest.raises(ValueError, match="no voice"):
        voices.speak("red", voices.Speaker("x", "espeak", "no-such-voice", 170.0, 50.0))


def test_missing_flite_says_how_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt-get install flite"):
        flite.say("red bus", "slt")


@pytest.fixture(scope="module")
def sounds() -> Sounds:
    return pronounce(WORDS)


def test_rhyme_families_span_several_classes(sounds: Sounds):
    families = sounds.families
    assert len(families) >= 15
    assert {"rug", "mug", "jug", "bug"} <= set(next(f for f in families.values() if "rug" in f))
    mixed = [f for f in families.values() if len({CLASS_OF[word] for word in f}) > 1]
    assert len(mixed) >= 0.7 * len(families)
    assert "clock" not in next(f for f in families.values() if "park" in f)
    assert {CLASS_OF[word] for f in families.values() for word in f} >= set(CONTENT_CLASSES) - {"moving"}


def test_minimal_pairs_differ_in_one_phone(sounds: Sounds):
    pairs = minimal_pairs(sounds.phones)
    assert len(pairs) > 100
    for pair in pairs:
        a, b = sounds.phones[pair.a], sounds.phones[pair.b]
        assert [i for i in range(len(a)) if a[i] != b[i]] == [pair.position]
        assert (a[pair.position], b[pair.position]) == (pair.phone_a, pair.phone_b)
    kinds = [minimal_pairs(sounds.phones, kind) for kind in ("onset", "vowel", "coda")]
    assert sum(map(len, kinds)) == len(pairs)
    assert ("bear", "pear") in {(p.a, p.b) for p in minimal_pairs(sounds.phones, "b/p")}
    with pytest.raises(ValueError, match="contrast"):
        minimal_pairs(sounds.phones, "rhythm")

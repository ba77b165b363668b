"""The synthetic corpus: sentences, speech, the true bigram matrix, rhymes, and packaged clips.

>>> synthetic = SyntheticCorpus.default()
>>> audio, alignment = synthetic.say("the very good duck", "us-f2")
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from jaxtyping import Float

from hooked_whisper.corpora import Clip, Recording, from_dict
from hooked_whisper.errors import closest
from hooked_whisper.protocols import Alignment
from hooked_whisper.synthetic import voices
from hooked_whisper.synthetic.grammar import Grammar, build_grammar
from hooked_whisper.synthetic.sounds import Sounds, WordPair, minimal_pairs

if TYPE_CHECKING:
    from hooked_whisper.synthetic.pairs import SpokenPair

DEMO = Path(__file__).resolve().parent.parent / "demo"


class SyntheticCorpus:
    """A grammar, the sounds of its words, and its speakers. Only :meth:`say` and :meth:`minimal_pairs` need a
    synthesizer."""

    def __init__(self, grammar: Grammar, sounds: Sounds, folder: Path | None = None) -> None:
        self.grammar, self.sounds, self._folder = grammar, sounds, folder

    @classmethod
    def default(cls) -> SyntheticCorpus:
        """Return the corpus on which the packaged demo model was trained."""
        return cls.load(DEMO)

    @classmethod
    def load(cls, folder: str | Path) -> SyntheticCorpus:
        """Load a folder written by ``python -m hooked_whisper.synthetic build`` or ``export``.

        Raises:
            FileNotFoundError: the folder has no grammar.
        """
        folder = Path(folder)
        if not (folder / "grammar.json").exists():
            raise FileNotFoundError(
                f"there is no synthetic corpus in {folder}: build one with `python -m hooked_whisper.synthetic build`"
            )
        return cls(Grammar.load(folder), Sounds.load(folder), folder)

    @classmethod
    def build(cls, seed: int = 0) -> SyntheticCorpus:
        """Return a corpus with another bigram matrix. This needs espeak-ng for the pronunciations."""
        from hooked_whisper.synthetic.sounds import pronounce

        grammar = build_grammar(seed)
        return cls(grammar, pronounce(grammar.words))

    def __repr__(self) -> str:
        return (
            f"SyntheticCorpus({len(self.words)} words in {len(self.classes)} classes, "
            f"{len(self.rhymes)} rhyme families, {len(self.speakers)} speakers, "
            f"{len(self.grammar.held_out)} held-out bigrams, seed {self.grammar.seed})"
        )

    @property
    def words(self) -> tuple[str, ...]:
        return self.grammar.words

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The words of each semantic class."""
        names = dict.fromkeys(self.grammar.class_of[word] for word in self.words)
        return {name: tuple(w for w in self.words if self.grammar.class_of[w] == name) for name in names}

    @property
    def rhymes(self) -> dict[str, tuple[str, ...]]:
        """The words of each rhyme (in IPA), largest family first."""
        return self.sounds.families

    @property
    def states(self) -> tuple[str, ...]:
        """Row and column names of the transition matrix: ``<s>``, the words, ``</s>``."""
        return self.grammar.states

    @property
    def transition_matrix(self) -> Float[np.ndarray, "state state"]:
        """Training matrix: entry ``[i, j]`` is the probability that state j follows state i. The row of END is zero."""
        return self.grammar.train

    @property
    def full_transition_matrix(self) -> Float[np.ndarray, "state state"]:
        """The matrix that includes the bigrams that are held out of training."""
        return self.grammar.full

    @property
    def speakers(self) -> tuple[voices.Speaker, ...]:
        return voices.SPEAKERS

    def next_words(self, word: str, n: int = 10) -> list[tuple[str, float]]:
        """Return the most likely followers of a word (or of ``<s>``) in training, with their probabilities."""
        row = self.transition_matrix[self._state(word)]
        best = np.argsort(-row, kind="stable")[:n]
        return [(self.states[i], float(row[i])) for i in best if row[i] > 0]

    def sample_sentences(self, n: int, seed: int = 0, split: str = "train") -> list[str]:
        """Return ``n`` random sentences. With ``split="bigrams"``, all of them have a held-out bigram; with
        ``"train"``, none of them has."""
        if split not in ("train", "bigrams"):
            raise ValueError(f"split is {split!r}, expected 'train' or 'bigrams'")
        novel = split == "bigrams"
        stream = self.grammar.sentences(np.random.default_rng(seed), full=novel)
        wanted = (text for text in stream if not novel or self.grammar.has_held_out(text))
        return list(itertools.islice(wanted, n))

    def say(
        self, text: str, speaker: str | voices.Speaker = "us-m0", tempo: float = 1.0
    ) -> tuple[Float[np.ndarray, "sample"], Alignment]:
        """Speak words of the corpus or other English words. Return 16 kHz float32 audio and its alignment.

        Raises:
            ValueError: the speaker is unknown, or the text has characters other than letters and spaces.
            RuntimeError: the synthesizer is not installed.
        """
        if isinstance(speaker, str):
            if speaker not in voices.BY_ID:
                raise ValueError(f"there is no speaker {speaker!r}, expected one of {', '.join(voices.BY_ID)}")
            speaker = voices.BY_ID[speaker]
        words = text.lower().split()
        if not words or not all(word.isalpha() for word in words):
            raise ValueError(f"the text is {text!r}, expected words of letters separated by spaces")
        return voices.speak(" ".join(words), speaker, utterance=f"{speaker.id}:{'-'.join(words)}", tempo=tempo)

    def word_pairs(self, contrast: str | None = None) -> list[WordPair]:
        """Return word pairs that differ in one phone and can both follow some word.

        Args:
            contrast: ``"onset"``, ``"vowel"``, ``"coda"``, or two phones such as ``"b/p"``.
        """
        reachable = self.grammar.full > 0
        index = self.grammar.index
        return [
            pair
            for pair in minimal_pairs(self.sounds.phones, contrast)
            if (reachable[:, index[pair.a]] & reachable[:, index[pair.b]]).any()
        ]

    def minimal_pairs(
        self,
        n: int,
        contrast: str | None = None,
        seed: int = 0,
        speakers: str | Sequence[str] = "held-out",
    ) -> list[SpokenPair]:
        """Return ``n`` sentences for activation patching, each spoken with two words that differ in one phone.

        This needs espeak-ng and takes about 20 ms per pair. Words, sentences and voices depend only on the seed.

        Args:
            contrast: ``"onset"``, ``"vowel"``, ``"coda"``, two phones such as ``"b/p"``, or ``None`` for any.
            speakers: a split of espeak's voices (``"held-out"``, ``"train"``) or ids of voices.

        Returns:
            The pairs, grammatical sentences first. There are fewer than ``n`` if in some of them the voice's two words
            do not differ in exactly one phone, and none if the corpus has no such words.

        Raises:
            ValueError: the contrast or a voice is unknown, a voice is not espeak's, or ``n < 1``.
        """
        from hooked_whisper.synthetic.pairs import speak_pairs

        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        return speak_pairs(self.grammar, self.sounds, self.word_pairs(contrast), espeak_voices(speakers), n, seed)

    def third_words(self, pair: SpokenPair) -> list[str]:
        """Return other words for the slot of the pair, the most similar in length first, for
        ``SpokenPair.with_word``."""
        from hooked_whisper.synthetic.pairs import third_words

        return third_words(pair, self.grammar, self.sounds)

    def carriers(self, pair: WordPair | SpokenPair) -> Sequence[str]:
        """Return the words that may precede both words of a pair, the most likely first."""
        a, b = self.grammar.full[:, self._state(pair.a)], self.grammar.full[:, self._state(pair.b)]
        both = np.minimum(a, b)
        return [self.states[i] for i in np.argsort(-both, kind="stable") if both[i] > 0]

    def clips(self, split: str | None = None) -> list[Clip]:
        """Load the packaged held-out clips.

        Args:
            split: ``"sentences"`` for new sentences by training speakers, ``"speakers"`` for held-out speakers.
        """
        folder = (self._folder or DEMO) / "clips"
        if not (folder / "clips.json").exists():
            raise FileNotFoundError(f"there are no clips in {folder}: run `python -m hooked_whisper.synthetic export`")
        clips = []
        for row in json.loads((folder / "clips.json").read_text(encoding="utf-8")):
            if split in (None, row["split"]):
                samples, _ = soundfile.read(folder / row["file"], dtype="float32")
                alignment = from_dict(row["alignment"])
                alignment.extra["split"] = row["split"]
                clip = Clip.aligned(samples, alignment)
                clips.append(replace(clip, recording=replace(clip.recording, language="en")))
        return clips

    def recordings(self, split: str | None = None) -> list[Recording]:
        """Return the recordings of the packaged held-out clips (:meth:`clips`)."""
        return [clip.recording for clip in self.clips(split)]

    def _state(self, word: str) -> int:
        if word not in self.grammar.index:
            raise ValueError(f"{word!r} is not a word of this corpus")
        return self.grammar.index[word]


def espeak_voices(wanted: str | Sequence[str]) -> tuple[voices.Speaker, ...]:
    """Return espeak-ng's voices of a split (``held-out`` or ``train``), or those with some ids.

    Raises:
        ValueError: an id is unknown, or the list is empty.
    """
    if isinstance(wanted, str) and wanted in ("held-out", "train"):
        return voices.speakers(wanted, "espeak")
    ids = [wanted] if isinstance(wanted, str) else list(wanted)
    known = {s.id: s for s in voices.SPEAKERS if s.synthesizer == "espeak"}
    for name in ids:
        if name not in known:
            near = closest(name, known)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(
                f"there is no espeak voice {name!r}, expected 'held-out', 'train' or ids of espeak voices{hint}"
            )
    if not ids:
        raise ValueError("the list of voices is empty, expected 'held-out', 'train' or ids of espeak voices")
    return tuple(known[name] for name in ids)

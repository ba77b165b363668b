"""The features that were published by name, as labels of positions, and the rule for whether one exists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from hooked_whisper.corpora import Clip
from hooked_whisper.features.phones.articulation import articulation
from hooked_whisper.protocols import SILENCE, Interval

NamedVerdict = Literal["exists", "doubtful", "absent", "not judged"]
EXISTS, DOUBTFUL = 0.5, 0.3  # F1 on held-out speakers
MARGIN = 0.1  # of F1 beyond the best random direction and shifted labels, for "exists"
TOUCHING = 0.011  # seconds; a longer gap separates two phones
OTHER = "other"
_BEFORE, _I_BEFORE, _AFTER = "vowel before n", "I before n", "n after vowel"
_SEQUENCE = frozenset({_BEFORE, _I_BEFORE, _AFTER})

RULE = (
    f"exists: F1 of {EXISTS:g} or more on held-out speakers, and {MARGIN:g} beyond both the best of as many random "
    f"directions and the best feature for shifted labels; doubtful: {DOUBTFUL:g} or more, and above both; absent: "
    "otherwise"
)


@dataclass(frozen=True, slots=True)
class PublishedName:
    """A feature that was published by the sound that its examples share.

    Attributes:
        name: as published.
        phone: the phone that it stands for, in ARPABET; empty for a vowel followed by ``n``.
        block: encoder block of tiny in which it was reported; ``None`` if that was not said.
    """

    name: str
    phone: str
    block: int | None = None

    @property
    def sound(self) -> str:
        """The sound in words."""
        return f"/{self.phone}/" if self.phone else "a vowel and the /N/ after it"


NAMES = (
    PublishedName("r", "R", 3),
    PublishedName("n", "N", 3),
    PublishedName("p", "P", 3),
    PublishedName("ch", "CH"),
    PublishedName("w", "W"),
    PublishedName("an/in/on", "", 2),
    PublishedName("I", "AY", 2),
    PublishedName("l", "L", 2),
)


def clips_with_names(clips: Sequence[Clip]) -> tuple[Clip, ...]:
    """Return the clips with phones relabeled for :func:`labels_of_names`.

    Phones of no published name become :data:`OTHER`. A vowel with an ``n`` right after it, and that ``n``, get labels
    that only such phones have, because they belong to two names.
    """
    return tuple(
        clip.with_alignment(replace(clip.alignment, phones=_relabeled(clip.alignment.phones))) for clip in clips
    )


def labels_of_names(labels: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return the labels of :func:`clips_with_names` that each published name stands for. Names may share labels."""
    present = frozenset(labels)
    return {name.name: _members(name) & present for name in NAMES}


def _members(name: PublishedName) -> frozenset[str]:
    if not name.phone:
        return _SEQUENCE
    shared = {"n": _AFTER, "I": _I_BEFORE}
    return frozenset({name.name, shared.get(name.name, name.name)})


def verdict(f1: float, random_f1: float, shifted_f1: float) -> NamedVerdict:
    """Apply :data:`RULE` to the F1 of the best feature and of its controls."""
    control = max(random_f1, shifted_f1)
    if f1 >= EXISTS and f1 >= control + MARGIN:
        return "exists"
    return "doubtful" if f1 >= DOUBTFUL and f1 > control else "absent"


_ARTICULATIONS = {articulation(name.phone): name.name for name in NAMES if name.phone}


def _relabeled(phones: Sequence[Interval]) -> tuple[Interval, ...]:
    phones = sorted(phones, key=lambda phone: phone.start)
    labels = [_name_of(phone.label) for phone in phones]
    for i, (first, second) in enumerate(pairwise(phones)):
        if _is_vowel(first.label) and labels[i + 1] == "n" and second.start - first.end < TOUCHING:
            labels[i], labels[i + 1] = _I_BEFORE if labels[i] == "I" else _BEFORE, _AFTER
    return tuple(replace(phone, label=label) for phone, label in zip(phones, labels, strict=True))


def _name_of(label: str) -> str:
    if label == SILENCE:
        return SILENCE
    return _ARTICULATIONS.get(articulation(label), OTHER)


def _is_vowel(label: str) -> bool:
    sound = articulation(label)
    return sound is not None and sound.kind == "vowel"


def tokens_of(name: PublishedName, tokens: Mapping[str, int]) -> int:
    """Return how often a name is said, from the number of intervals with each label of :func:`clips_with_names`."""
    return sum(tokens.get(label, 0) for label in (_members(name) if name.phone else {_AFTER}))

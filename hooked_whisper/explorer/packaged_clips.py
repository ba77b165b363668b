"""The packaged clips that the page offers: neural voices for released models, synthetic speech for the demo model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hooked_whisper.corpora import Clip, Recording, packaged_speech
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.synthetic import SyntheticCorpus

MOST_PACKAGED = 24


@dataclass(frozen=True, eq=False)
class PackagedClip:
    """A packaged clip before the model hears it.

    title: in the list of clips. label: name on the page. source: Python expression for its samples.
    """

    title: str
    label: str
    source: str
    load: Callable[[], Clip]


def packaged_clips(model: HookedWhisper, language: str = "en") -> dict[str, PackagedClip]:
    """Return clips by id, in the language if there are packaged clips in it, else in English."""
    if model.cfg.name == "demo":
        return {f"demo-{i}": _synthetic(i, clip) for i, clip in enumerate(SyntheticCorpus.default().clips())}
    recordings = packaged_speech(["prose", "foreign"])
    spoken = [recording for recording in recordings if recording.language == language]
    listed = spoken or [recording for recording in recordings if recording.language == "en"]
    return {recording.id: _neural(recording) for recording in listed[:MOST_PACKAGED]}


def _synthetic(number: int, clip: Clip) -> PackagedClip:
    title = f"{number + 1}. “{clip.text}” ({clip.alignment.speaker})"
    source = f"SyntheticCorpus.default().clips()[{number}].samples"
    return PackagedClip(title, f"packaged clip {number + 1}", source, lambda: clip)


def _neural(recording: Recording) -> PackagedClip:
    title = f"“{recording.text}” ({recording.speaker})"
    source = f"Clip.load(packaged[{recording.id!r}]).samples"
    return PackagedClip(title, f"packaged clip {recording.id}", source, partial(Clip.load, recording))

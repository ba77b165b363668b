"""Every finding by its id: what it is, how to run it, how to draw it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from hooked_whisper.errors import HookedWhisperError, closest
from hooked_whisper.findings import (
    alignment_heads,
    bigrams,
    cut_words,
    decoder_lens,
    early_blocks,
    head_windows,
    language_entry,
    language_steering,
    listening,
    phonetic_neurons,
    polyphony,
    semantic_neurons,
    speech_probes,
    speech_similarity,
    word_fragments,
    word_swap,
)
from hooked_whisper.findings import attention_windows as windows
from hooked_whisper.findings import audio_against_context as conflict
from hooked_whisper.findings import encoder_locality as relevance
from hooked_whisper.findings import feature_visualization as dream
from hooked_whisper.findings import neighbors as neighbours
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.cost import measured
from hooked_whisper.findings.core.figures import draw_bigrams, draw_cut_words, draw_neighbours, draw_windows
from hooked_whisper.findings.core.finding import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One experiment. ``needs_speech``: it does nothing without clips. ``own_speech``: on real Whisper it has sentences
    of the packaged speech that were written for it, or none, so that another corpus changes nothing."""

    id: str
    title: str
    claim: str
    protocol: str
    run: Callable[[Context], Finding]
    draw: Callable[[Finding], list[Figure]]
    needs_speech: bool
    own_speech: bool = False


def _entry(
    module: object, draw: Callable[[Finding], list[Figure]], needs_speech: bool, own_speech: bool = False
) -> Entry:
    m: object = module
    return Entry(m.ID, m.TITLE, m.CLAIM, m.PROTOCOL, m.run, draw, needs_speech, own_speech)  # type: ignore[attr-defined]


GROUP = "hooked_whisper.findings"
"""Entry points of other packages under this name are modules like those of :mod:`hooked_whisper.findings`, with ``ID``,
``TITLE``, ``CLAIM``, ``PROTOCOL``, ``run``, ``draw``, ``NEEDS_SPEECH``, and ``AFTER``: which finding they stand behind.
"""


class _Registry(Mapping[str, Entry]):
    """Ours and those of others, which are looked for when somebody first asks: their packages import ours."""

    def __init__(self, own: tuple[Entry, ...]) -> None:
        self._own = own

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        return _with_those_of_others(self._own)

    def __getitem__(self, id: str) -> Entry:
        return self._entries[id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _with_those_of_others(own: tuple[Entry, ...]) -> dict[str, Entry]:
    found = list(own)
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        try:
            module = point.load()
            entry = _entry(module, module.draw, module.NEEDS_SPEECH)
        except Exception as error:  # another package's mistake must not hide our findings
            log.warning("findings of %s cannot be loaded: %s: %s", point.value, type(error).__name__, error)
            continue
        behind = [i for i, one in enumerate(found) if one.id == getattr(module, "AFTER", "")]
        found.insert(behind[0] + 1 if behind else len(found), entry)
    return {entry.id: entry for entry in found}


REGISTRY: Mapping[str, Entry] = _Registry(
    (
        _entry(bigrams, draw_bigrams, False, own_speech=True),
        _entry(neighbours, draw_neighbours, False, own_speech=True),
        _entry(relevance, relevance.draw, True),
        _entry(windows, draw_windows, True),
        _entry(head_windows, head_windows.draw, True),
        _entry(cut_words, draw_cut_words, True),
        _entry(phonetic_neurons, phonetic_neurons.draw, True),
        _entry(polyphony, polyphony.draw, True),
        _entry(early_blocks, early_blocks.draw, True),
        _entry(semantic_neurons, semantic_neurons.draw, True, own_speech=True),
        _entry(word_fragments, word_fragments.draw, True, own_speech=True),
        _entry(dream, dream.draw, True),
        _entry(listening, listening.draw, True),
        _entry(language_entry, language_entry.draw, True),
        _entry(speech_probes, speech_probes.draw, True),
        _entry(language_steering, language_steering.draw, True),
        _entry(speech_similarity, speech_similarity.draw, True),
        _entry(word_swap, word_swap.draw, False, own_speech=True),
        _entry(decoder_lens, decoder_lens.draw, True),
        _entry(alignment_heads, alignment_heads.draw, True),
        _entry(conflict, conflict.draw, True, own_speech=True),
    )
)


def chosen(ids: str | None) -> list[Entry]:
    """Entries for ``"F2,F9"`` (any case), in the registry's order; all for ``None``.

    Raises:
        HookedWhisperError: an id that does not exist.
    """
    if ids is None:
        return list(REGISTRY.values())
    wanted = [one.strip().upper() for one in ids.split(",") if one.strip()]
    unknown = [one for one in wanted if one not in REGISTRY]
    if unknown or not wanted:
        near = closest(unknown[0], REGISTRY) if unknown else []
        hint = f" (did you mean {near[0]}?)" if near else ""
        name = repr(unknown[0]) if unknown else "''"
        raise HookedWhisperError(f"no finding {name}{hint}: there are {', '.join(REGISTRY)}")
    return [entry for entry in REGISTRY.values() if entry.id in wanted]


def run_finding(entry: Entry, context: Context) -> Finding:
    """Run one finding and record its cost. An exception becomes a finding with the status "error"; an interruption is
    raised."""
    with measured() as cost:
        finding = _run_or_report(entry, context)
    return replace(finding, seconds=cost.seconds, peak_mib=cost.peak_mib)


def _run_or_report(entry: Entry, context: Context) -> Finding:
    try:
        return entry.run(context)
    except Exception as error:
        log.warning("%s failed: %s: %s", entry.id, type(error).__name__, error)
        log.debug("%s failed", entry.id, exc_info=True)
        return Finding(
            id=entry.id,
            title=entry.title,
            claim=entry.claim,
            protocol=entry.protocol,
            model=context.model.cfg.name,
            inputs={},
            parameters={},
            error=f"{type(error).__name__}: {error}",
        )

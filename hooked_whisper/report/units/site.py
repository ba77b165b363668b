"""Write the site: an index, a page per unit, and the sounds and spectrograms that pages share.

- ``index.html``, ``units.json``
- ``units/<index>.html``, ``.json`` and ``.png`` (mean spectrogram around the peaks) per unit
- ``clips/``: per clip a ``.mp3``, a ``.png`` (spectrogram), a ``.js`` (words and phones), and a ``.mp3`` per amplified
  moment
- ``assets/``
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from hooked_whisper._support.mel_image import mel_png
from hooked_whisper._support.storage import write_atomic
from hooked_whisper.audio import to_mp3_bytes
from hooked_whisper.errors import HookedWhisperError, closest
from hooked_whisper.report.units.data import POSITION_S, PageClip, SiteInfo, Unit
from hooked_whisper.report.units.pages import mean_mel_png, render_asset, render_index, render_unit
from hooked_whisper.report.units.records import (
    Record,
    clip_record,
    clip_script,
    dump,
    index_row,
    page_example,
    read_clip_script,
    unit_record,
)
from hooked_whisper.report.units.sound import moment_mp3

_ASSETS = {"units.css": "units.css.j2", "units.js": "units.js", "index.js": "index.js"}


class SiteWriter:
    """Writes clips and units one by one; call :meth:`finish` at the end. Only names and index rows stay in memory.

    Files are written atomically, so that an interrupted build leaves valid pages. A second run with the same data
    writes the same bytes and does not encode sounds again. Files of other builds in ``out`` are kept.
    """

    def __init__(self, out: Path, info: SiteInfo) -> None:
        self.out = Path(out)
        self.info = info
        self._places = {index: place for place, index in enumerate(info.indices)}
        self._clips: dict[str, str] = {}  # file names by id
        self._rows: dict[int, list[Any]] = {}
        for name, template in _ASSETS.items():
            write_atomic(self.out / "assets" / name, render_asset(template).encode())

    def has_clip(self, id: str) -> bool:
        """Whether a clip was added."""
        return id in self._clips

    def add_clip(self, clip: PageClip) -> None:
        """Write a clip's sound, spectrogram and captions, unless the files exist.

        Raises:
            HookedWhisperError: another clip was added with this id.
        """
        record = clip_record(clip)
        name = _file_name(clip, record)
        if self._clips.get(clip.id, name) != name:
            raise HookedWhisperError(f"two different clips have the id {clip.id!r}: give each clip a unique id")
        folder = self.out / "clips"
        if not (folder / f"{name}.js").exists():  # written last; the name contains a digest
            write_atomic(folder / f"{name}.mp3", to_mp3_bytes(clip.clip.samples))
            write_atomic(folder / f"{name}.png", mel_png(clip.mel))
            write_atomic(folder / f"{name}.js", clip_script(name, record))
        self._clips[clip.id] = name

    def add_unit(self, unit: Unit) -> None:
        """Write a unit's page and JSON, and the amplified moments of its examples.

        Raises:
            HookedWhisperError: the unit is not in ``info.indices``, the clip of an example was not added, or an example
                ends after its clip.
        """
        if unit.index not in self._places:
            raise HookedWhisperError(f"unit {unit.index} is not in the site's indices: add it to SiteInfo")
        names = {e.clip: self._name(e.clip) for e in unit.examples}
        clips = {id: self._record(name) for id, name in names.items()}
        for e in unit.examples:
            duration, end = clips[e.clip]["duration"], e.start_s + (len(e.trace) - 1) * POSITION_S
            if end > duration + POSITION_S or e.peak_s > duration:
                raise HookedWhisperError(
                    f"unit {unit.index}: a trace ends at {end:g} s, its peak is at {e.peak_s:g} s, and clip {e.clip!r} "
                    f"is {duration:g} s long: cut the trace, with times from the start of the excerpt"
                )
        examples = [
            page_example(e, clips[e.clip], names[e.clip], self._moment(names[e.clip], e.peak_s)) for e in unit.examples
        ]
        page = render_unit(self.info, unit, self._places[unit.index], clips, examples)
        folder = self.out / "units"
        write_atomic(folder / f"{unit.index}.json", dump(unit_record(self.info, unit, clips)).encode())
        if unit.mean_mel is not None:
            write_atomic(folder / f"{unit.index}.png", mean_mel_png(unit.mean_mel))
        write_atomic(folder / f"{unit.index}.html", page.encode())
        strongest = [record["moment"] for e, record in zip(unit.examples, examples, strict=True) if e.group == "top"]
        self._rows[unit.index] = index_row(unit, clips, strongest[0] if strongest else "")

    def strongest_sound(self, index: int) -> str:
        """Return the path, from the site's folder, of the amplified strongest moment of a unit that was added; empty if
        it has no examples."""
        moment = self._rows[index][-1]
        return f"clips/{moment}.mp3" if moment else ""

    def finish(self) -> None:
        """Write the index.

        Raises:
            HookedWhisperError: a unit of ``info.indices`` was not added, so that links would be broken.
        """
        missing = [i for i in self.info.indices if i not in self._rows]
        if missing:
            raise HookedWhisperError(f"{len(missing)} units were not added ({missing[:5]}): add all, dead ones too")
        rows = [self._rows[i] for i in self.info.indices]
        write_atomic(self.out / "units.json", dump(_units_json(self.info, rows)).encode())
        write_atomic(self.out / "index.html", render_index(self.info, rows).encode())

    def _name(self, id: str) -> str:
        if id not in self._clips:
            near = closest(id, self._clips)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise HookedWhisperError(f"no clip {id!r} was added: call add_clip before add_unit{hint}")
        return self._clips[id]

    def _record(self, name: str) -> Record:
        # read back: words and phones of a whole corpus would fill the memory
        return read_clip_script((self.out / "clips" / f"{name}.js").read_bytes())

    def _moment(self, name: str, peak_s: float) -> str:
        """Write the amplified moment of a clip and return its file name."""
        moment = f"{name}-{round(peak_s * 1000)}"
        path = self.out / "clips" / f"{moment}.mp3"
        if not path.exists():
            write_atomic(path, moment_mp3((self.out / "clips" / f"{name}.mp3").read_bytes(), peak_s))
        return moment


def _file_name(clip: PageClip, record: Record) -> str:
    """File name from the id and a digest of the content, so that changed clips get new files."""
    digest = hashlib.sha256(dump(record).encode())
    for array in (clip.clip.samples, clip.mel):
        digest.update(str(array.dtype).encode() + array.tobytes())
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', clip.id)[:40]}-{digest.hexdigest()[:12]}"


def _units_json(info: SiteInfo, rows: list[list[Any]]) -> Record:
    return {
        "title": info.title,
        "modelId": info.model,
        "layer": info.hook,
        "corpus": info.corpus,
        "n_units": info.n_units,
        "noun": info.noun,
        "basis": info.basis,
        "score": {"name": info.measure.name, "description": info.measure.description},
        "command": info.command,
        "facts": dict(info.facts),
        "units": [
            {
                "index": index,
                "description": label,
                "score": score,
                "maxActApprox": top,
                "frac_nonzero": fraction,
                "mean": mean,
                "dead": bool(dead),
                "words": words,
            }
            for index, label, score, top, fraction, mean, dead, _, words, _ in rows
        ],
    }

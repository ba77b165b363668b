"""Write the packaged folder: encoded audio, one line per recording, and metadata."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.errors import AudioError
from hooked_whisper.neural import kokoro, voices
from hooked_whisper.neural.build import SPEED, load
from hooked_whisper.neural.choose import Choice
from hooked_whisper.neural.compare import tolerance
from hooked_whisper.neural.encode import KBPS, LEVEL_DB, MARGIN_S, PEAK, Finished, encode, finish
from hooked_whisper.neural.plan import Planned, make_plan
from hooked_whisper.neural.tables import voice_table
from hooked_whisper.neural.times import CLOSURE_S, PHONE_LEAD_S, WORD_LEAD_S
from hooked_whisper.protocols import Interval
from hooked_whisper.synthetic.espeak import engine

AUDIO = "audio"
CHECK = "check.json"  # measurements, in the folder of the build


def pack(build: Path, folder: Path, choices: dict[str, Choice]) -> dict[str, Any]:
    """Write ``audio/``, ``utterances.jsonl`` and ``metadata.json``, and return the metadata.

    Raises:
        AudioError: if a recording has not been built or the build has not been checked.
    """
    measured = build / CHECK
    if not measured.is_file():
        raise AudioError(f"{str(measured)!r} does not exist: run `python -m hooked_whisper.neural check` first")
    plan = make_plan(choices)
    shutil.rmtree(folder / AUDIO, ignore_errors=True)
    rows, size = [], 0
    for planned in plan:
        synthesis, audio = load(planned, build)
        finished = finish(synthesis, audio)
        content = encode(finished.audio)
        path = f"{AUDIO}/{planned.kind}/{planned.id}.opus"
        write_atomic(folder / path, content)
        rows.append(row_of(planned, synthesis.text, finished, path))
        size += len(content)
    lines = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    write_atomic(folder / "utterances.jsonl", lines.encode())
    metadata = {**describe(), **counts(rows), "audio_bytes": size, **json.loads(measured.read_text("utf-8"))}
    write_atomic(folder / "metadata.json", (json.dumps(metadata, ensure_ascii=False, indent=1) + "\n").encode())
    return metadata


def row_of(planned: Planned, text: str, finished: Finished, path: str) -> dict[str, Any]:
    """Return the line of a recording in ``utterances.jsonl``. Times are in seconds, rounded to 0.1 ms."""
    return {
        "id": planned.id,
        "path": path,
        "speaker": planned.voice,
        "language": planned.language,
        "kind": planned.kind,
        "split": planned.split,
        "text": text,
        **planned.about,
        "duration": finished.duration,
        "words": [_plain(word) for word in finished.times.words],
        "phones": [_plain(phone) for phone in finished.times.phones],
    }


def describe() -> dict[str, Any]:
    """Return how the corpus is made: parts with versions and checksums, audio, labels, licenses."""
    return {
        "name": "hooked_whisper packaged speech",
        "version": 1,
        "license": "Audio by Kokoro-82M (Apache-2.0); sentences by this project, under its license",
        "synthesizer": {
            "model": "Kokoro-82M v1.0, int8, in onnxruntime " + version("onnxruntime"),
            "parts_sha256": kokoro.checksums(),
            "voices_from": f"npm {voices.PACKAGE}",
            "voices_sha256": {voice.name: voice.sha256 for voice in voice_table()},
            "speed": SPEED,
        },
        "phonemizer": f"espeak-ng {engine().version} (GPL-3.0, used to make the corpus, which contains no part of it)",
        "labels": {
            "en": "39 phones of the CMU dictionary and SIL, by hooked_whisper/neural/phones.tsv",
            "es, fr, it, pt": "IPA as espeak-ng writes it, without stress and length, and SIL",
        },
        "audio": {
            "rate": SAMPLE_RATE,
            "codec": f"Ogg Opus, {KBPS} kbit/s nominal",
            "level_db": LEVEL_DB,
            "peak": PEAK,
            "silence_at_the_ends_s": MARGIN_S,
        },
        "corrections": {
            "word_lead_s": WORD_LEAD_S,
            "phone_lead_s": PHONE_LEAD_S,
            "closure_s": CLOSURE_S,
            "rule": "A space belongs to the word after it, a stress mark to the phone after it; the leads are taken "
            "off; silence in the samples at a word boundary becomes SIL, but for the closure of a stop.",
        },
        "tolerance": tolerance(),
    }


def counts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count recordings and minutes by kind, voice, language and split, and English phones by label."""
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for field in ("kind", "speaker", "language", "split"):
        parts: dict[str, list[float]] = defaultdict(list)
        for row in rows:
            parts[row[field]].append(row["duration"])
        tables[field] = {
            name: {"recordings": len(durations), "minutes": round(sum(durations) / 60, 2)}
            for name, durations in parts.items()
        }
    phones = {
        name: dict(sorted(Counter(phone[2] for row in group for phone in row["phones"]).items()))
        for name, group in (
            ("english", [row for row in rows if row["language"] == "en"]),
            ("prose", [row for row in rows if row["kind"] == "prose"]),
        )
    }
    minutes = round(sum(row["duration"] for row in rows) / 60, 2)
    return {"recordings": len(rows), "minutes": minutes, "counts": tables, "phones": phones}


def _plain(interval: Interval) -> list[Any]:
    return [interval.start, interval.end, interval.label]

"""Build and read the training corpus: shards of 16-bit audio with an alignment per utterance.

Each shard is synthesized in a new process, because the synthesizer keeps state. So the bytes depend only on the seed.
Finished shards are listed in ``manifest.json`` with their checksums, and an interrupted build resumes.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.corpora import from_dict, to_dict
from hooked_whisper.protocols import Alignment
from hooked_whisper.synthetic.grammar import Grammar, build_grammar, empirical
from hooked_whisper.synthetic.sounds import pronounce
from hooked_whisper.synthetic.voices import BY_ID, SAMPLE_RATE, speak, speakers

log = logging.getLogger(__name__)

SPLITS = ("train", "sentences", "speakers", "bigrams")


@dataclass(frozen=True)
class CorpusConfig:
    """Sizes of the splits and shards in utterances. ``flite_share`` is the share of training utterances by flite, which
    is about ten times slower than espeak-ng."""

    seed: int = 0
    train: int = 20_000
    sentences: int = 300
    speakers: int = 300
    bigrams: int = 200
    flite_share: float = 0.3
    shard: int = 500


@dataclass(frozen=True)
class Job:
    """An utterance to synthesize."""

    utterance: str
    text: str
    speaker: str
    tempo: float
    pitch: float


def plan(config: CorpusConfig, grammar: Grammar) -> dict[str, list[Job]]:
    """Return the jobs of each shard, by name. Test sentences (of three words or more) and held-out bigrams never occur
    in training."""
    rng = np.random.default_rng([config.seed, 2])
    stream, full = grammar.sentences(rng), grammar.sentences(rng, full=True)
    taken: set[str] = set()
    held_sentences = _distinct(stream, config.sentences + config.speakers, taken, lambda t: len(t.split()) >= 3)
    held_bigrams = _distinct(full, config.bigrams, taken, grammar.has_held_out)
    train: list[str] = []
    while len(train) < config.train:
        text = next(stream)
        if text not in taken:
            train.append(text)
    n_flite = round(config.flite_share * config.train)
    by_engine = {
        "train-flite": train[:n_flite],
        "train-espeak": train[n_flite:],
        "sentences": held_sentences[: config.sentences],
        "speakers": held_sentences[config.sentences :],
        "bigrams": held_bigrams,
    }
    shards: dict[str, list[Job]] = {}
    for name, texts in by_engine.items():
        jobs = []
        for k, text in enumerate(texts):
            if name == "speakers":
                choice = speakers("held-out")
                speaker = choice[k % len(choice)]
            else:
                engine = name.split("-")[1] if "-" in name else ("flite" if rng.random() < 0.4 else "espeak")
                choice = speakers("train", engine)
                speaker = choice[int(rng.integers(len(choice)))]
            test = not name.startswith("train")
            tempo = float(rng.uniform(0.95, 1.1) if test else rng.uniform(0.88, 1.2))
            pitch = float(rng.uniform(-4, 4) if test else rng.uniform(-12, 12))
            jobs.append(Job(f"{name}-{k:05d}", text, speaker.id, round(tempo, 3), round(pitch, 2)))
        for start in range(0, len(jobs), config.shard):
            shards[f"{name}-{start // config.shard:03d}"] = jobs[start : start + config.shard]
    return shards


def _distinct(stream: Iterator[str], count: int, taken: set[str], wanted: Callable[[str], bool]) -> list[str]:
    """Return ``count`` new texts that ``wanted`` accepts, and add them to ``taken``."""
    texts: list[str] = []
    while len(texts) < count:
        text = next(stream)
        if text not in taken and wanted(text):
            taken.add(text)
            texts.append(text)
    return texts


def build(folder: Path, config: CorpusConfig, processes: int = 2) -> dict[str, Any]:
    """Synthesize all missing shards, and return the manifest.

    Raises:
        ValueError: the folder has a corpus with other settings.
        RuntimeError: a shard cannot be synthesized.
    """
    grammar = build_grammar(config.seed)
    shards = plan(config, grammar)
    manifest = _manifest(folder, config)
    done = {name for name, facts in manifest["shards"].items() if name in shards and _intact(folder, facts["sha256"])}
    manifest["shards"] = {name: facts for name, facts in manifest["shards"].items() if name in done}
    grammar.save(folder)
    if not (folder / "sounds.json").exists():
        pronounce(grammar.words).save(folder)
    todo = [name for name in shards if name not in done]
    log.info("%d shards, %d already built", len(shards), len(done))
    with (
        ThreadPoolExecutor(processes) as pool,
        tqdm(total=len(shards), initial=len(done), unit="shard", desc="synthesizing") as bar,
    ):
        futures = {pool.submit(_in_fresh_process, folder, name, shards[name]): name for name in todo}
        try:
            for future in as_completed(futures):
                manifest["shards"][futures[future]] = future.result()
                _write_manifest(folder, manifest)
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    manifest["shards"] = {name: manifest["shards"][name] for name in shards}
    _write_manifest(folder, manifest)
    texts = [job.text for name, jobs in shards.items() if name.startswith("train") for job in jobs]
    buffer = io.BytesIO()
    np.save(buffer, empirical(grammar, texts).astype(np.int32), allow_pickle=False)
    write_atomic(folder / "train_bigram_counts.npy", buffer.getvalue())
    return manifest


def _manifest(folder: Path, config: CorpusConfig) -> dict[str, Any]:
    path = folder / "manifest.json"
    if not path.exists():
        return {"config": asdict(config), "sample_rate": SAMPLE_RATE, "shards": {}}
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest["config"] != asdict(config):
        differences = differing_settings(manifest["config"], asdict(config))
        raise ValueError(
            f"{folder} has a corpus with other settings ({differences}): use another folder or the same settings"
        )
    return manifest


def differing_settings(saved: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """Return the settings that differ, as in ``"seed 0, expected 1"``."""
    names = [name for name in expected if saved.get(name) != expected[name]]
    return "; ".join(f"{name} {saved.get(name)!r}, expected {expected[name]!r}" for name in names)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _intact(folder: Path, checksums: dict[str, str]) -> bool:
    def same(name: str, expected: str) -> bool:
        path = folder / name
        return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == expected

    return all(same(name, expected) for name, expected in checksums.items())


def _in_fresh_process(folder: Path, name: str, jobs: list[Job]) -> dict[str, Any]:
    """Synthesize a shard in a new process. A process pool with one task per worker can hang in Python 3.11."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_report_shard, args=(there, folder, name, jobs), daemon=True)
    process.start()
    there.close()
    try:
        outcome = here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"shard {name}: its process ended with code {process.exitcode}") from None
    process.join()
    if isinstance(outcome, str):
        raise RuntimeError(f"shard {name}: {outcome}")
    return outcome


def _report_shard(pipe: Connection, folder: Path, name: str, jobs: list[Job]) -> None:
    try:
        pipe.send(_speak_shard(folder, name, jobs))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _speak_shard(folder: Path, name: str, jobs: list[Job]) -> dict[str, Any]:
    """Synthesize and write a shard. Utterances whose words cannot be separated are skipped and counted."""
    audio, rows, offset, skipped = [], [], 0, 0
    for job in jobs:
        try:
            samples, alignment = speak(job.text, BY_ID[job.speaker], job.utterance, job.tempo, job.pitch)
        except ValueError:
            skipped += 1
            continue
        audio.append(np.round(np.clip(samples, -1, 1) * 32767).astype(np.int16))
        rows.append({"offset": offset, "samples": len(samples), **to_dict(alignment)})
        offset += len(samples)
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(audio) if audio else np.zeros(0, np.int16), allow_pickle=False)
    files = {
        f"{name}.npy": buffer.getvalue(),
        f"{name}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(),
    }
    for file, data in files.items():
        write_atomic(folder / file, data)
    return {
        "utterances": len(rows),
        "skipped": skipped,
        "seconds": round(offset / SAMPLE_RATE, 2),
        "sha256": {file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
    }


class Corpus:
    """One split of a corpus on disk, in memory-mapped shards."""

    def __init__(self, folder: Path, split: str) -> None:
        if split not in SPLITS:
            raise ValueError(f"there is no split {split!r}, expected one of {', '.join(SPLITS)}")
        path = Path(folder) / "manifest.json"
        if not path.exists():
            raise FileNotFoundError(
                f"there is no corpus in {folder}: run `python -m hooked_whisper.synthetic build` first"
            )
        manifest = json.loads(path.read_text(encoding="utf-8"))
        names = [name for name in manifest["shards"] if name.split("-")[0] == split]
        self.split = split
        self._rows: list[dict[str, Any]] = []
        self._where: list[tuple[int, int, int]] = []
        self._audio: list[np.ndarray] = []
        for k, name in enumerate(names):
            self._audio.append(np.load(Path(folder) / f"{name}.npy", mmap_mode="r", allow_pickle=False))
            for line in (Path(folder) / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self._where.append((k, row.pop("offset"), row.pop("samples")))
                self._rows.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def texts(self) -> list[str]:
        return [row["text"] for row in self._rows]

    @cached_property
    def speakers(self) -> list[str]:
        return [row["speaker"] for row in self._rows]

    @cached_property
    def synthesizers(self) -> list[str]:
        return [row["extra"]["synthesiser"] for row in self._rows]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Number of samples of each utterance."""
        return np.array([count for _, _, count in self._where])

    def audio(self, index: int) -> Float[np.ndarray, "sample"]:
        """Return the samples of an utterance as 16 kHz float32."""
        shard, offset, count = self._where[index]
        return self._audio[shard][offset : offset + count].astype(np.float32) / 32768

    def alignment(self, index: int) -> Alignment:
        return from_dict(self._rows[index])

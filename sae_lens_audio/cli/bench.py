"""``sae-lens-audio bench``: the benchmark of SAEs, with controls; write a table, JSON and one page."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hooked_whisper.cli.corpus_arguments import (
    add_corpus,
    check_corpus_options,
    corpus_of,
    report_failures,
    texts_of,
)
from hooked_whisper.cli.model_arguments import check_language, load_model, not_negative, positive
from hooked_whisper.cli.prepare import check_output
from sae_lens_audio.cli.records import add_record_arguments, check_weights, hooks_of, load_saes, model_of, speech_to_fit

if TYPE_CHECKING:
    from torch import Tensor

    from hooked_whisper.corpora import Clip, Recording
    from hooked_whisper.hooked import HookedWhisper
    from sae_lens_audio.formats import LoadedSAE

ATTACHED, CLIPS, FITTED, MIN_TOKENS = 40, 400, 60, 20


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``bench``."""
    parser.add_argument(
        "saes",
        nargs="+",
        metavar="SAE",
        help="SAEs of one hook point: folders in the format of SAELens, sparsify or dictionary_learning, or packaged "
        "ones such as tiny.en/encoder.blocks.2",
    )
    parser.add_argument("--out", type=Path, default=Path("bench"), metavar="DIR", help="output folder (bench)")
    parser.add_argument("--hook-out", metavar="NAME", help="hook point that transcoders predict (default: recorded)")
    parser.add_argument(
        "--clips",
        type=positive,
        default=CLIPS,
        metavar="N",
        help=f"maximum number of windows of up to 30 s to score ({CLIPS}); speakers take turns",
    )
    parser.add_argument(
        "--attached", type=not_negative, default=ATTACHED, metavar="N",
        help=f"clips to decode with each SAE attached, 0 for none ({ATTACHED})",
    )  # fmt: skip
    parser.add_argument(
        "--min-tokens",
        type=positive,
        default=MIN_TOKENS,
        metavar="N",
        help=f"skip phones that are said less often ({MIN_TOKENS})",
    )
    parser.add_argument(
        "--fit-audio", metavar="PLACE",
        help="recordings to fit means and principal directions on (default: packaged speech by training voices)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", nargs="+", default=[], metavar="SAE", help="those of the SAEs that differ only in their seed"
    )
    parser.add_argument("--seed", type=not_negative, default=0, metavar="S", help="seed of folds and draws (0)")
    add_corpus(parser, sentences=CLIPS, speakers="held-out")
    add_record_arguments(parser)


def run_bench(parsed: argparse.Namespace, arguments: list[str] | None = None) -> int:
    """Score the SAEs and controls; print a table; write ``bench.json`` and ``bench.html``."""
    check_output(parsed.out)
    check_corpus_options(parsed)
    saes = load_saes(parsed.saes)
    seeds = _named(parsed.seeds, parsed.saes, saes)
    named = model_of(parsed, saes)
    hooks = hooks_of(parsed, saes, named.shapes, parsed.hook_out)
    check_language(named.shapes, parsed.language)
    corpus, described = _scored(parsed)
    fitted = _fitted(parsed)

    from tqdm import tqdm

    from hooked_whisper.errors import HookedWhisperError
    from hooked_whisper.features.phones.labeled_clips import labeled_clips
    from sae_lens_audio.benchmark import BenchmarkOptions, ScoreStore, benchmark_points, run_benchmark
    from sae_lens_audio.benchmark.page import PAGE, write_page
    from sae_lens_audio.benchmark.results import FILE
    from sae_lens_audio.evals.rows import gather_rows

    model, _ = load_model(parsed, named.checkpoint)
    check_weights(parsed, model, saes)
    recordings = texts_of(parsed, model, list(corpus))
    labeled = labeled_clips(model, in_turns(recordings), parsed.clips, phones_only=True)
    silent = [clip.alignment.utterance for clip in labeled.clips if not clip.samples.any()]
    clips = labeled._replace(
        clips=by_speaker([clip for clip in labeled.clips if clip.samples.any()]),
        failures=[*labeled.failures, *((name, "it is digital silence: record it again") for name in silent)],
    )
    if not clips.clips:
        why = f"; the first failure: {': '.join(clips.failures[0])}" if clips.failures else ""
        raise HookedWhisperError(
            f"none of {described} has phones: give their files with --alignments, or make them with hooked-whisper "
            f"align{why}"
        )
    fitted_clips = labeled_clips(model, fitted, FITTED)
    points = benchmark_points(model, hooks.reads, hooks.predicts)
    rows = gather_rows(model, fitted_clips.clips, points.names, language=parsed.language, seed=parsed.seed)
    options = BenchmarkOptions(
        attached_clips=parsed.attached, min_tokens=parsed.min_tokens, language=parsed.language, seed=parsed.seed
    )

    def track(steps: Sequence[Any], what: str) -> Iterable[Any]:
        bar: Iterable[Any] = tqdm(steps, what, disable=not sys.stderr.isatty())
        return bar

    benchmark = run_benchmark(
        model,
        {name: sae.sae.float().to(model.device) for name, sae in saes.items()},
        hooks.reads,
        clips.clips,
        rows,
        options,
        hook_out=hooks.predicts,
        seeds=seeds,
        facts={name: facts_of(sae) for name, sae in saes.items()},
        inputs={"corpus": described, "fitted positions": len(rows[points.reads]), "options": vars(options)},
        notes=_notes(recordings, clips.clips, parsed.clips),
        store=ScoreStore(parsed.out / "scores", _key(saes, model, rows, clips.clips, (hooks, options))),
        track=track,
    )
    benchmark.save(parsed.out)
    write_page(benchmark, parsed.out)
    print(benchmark)
    print(f"\n{parsed.out / FILE} has all scores, {parsed.out / PAGE} shows them")
    failures = list(dict.fromkeys([*clips.failures, *fitted_clips.failures]))
    return report_failures(failures, len(corpus) + len(fitted))


def facts_of(sae: LoadedSAE) -> dict[str, Any]:
    """Return what the table says about an SAE besides its scores."""
    config = getattr(sae.sae, "config", None)
    sparsity = {name: getattr(config, name) for name in ("k",) if hasattr(config, name)}
    return {"architecture": sae.sae.architecture, "latents": sae.sae.n_features, **sparsity}


def _named(seeds: Sequence[str], folders: Sequence[str], saes: Mapping[str, LoadedSAE]) -> tuple[str, ...]:
    """Return the names of the SAEs given with ``--seeds``.

    Raises:
        HookedWhisperError: one is not among the SAEs, or there is only one.
    """
    from hooked_whisper.errors import HookedWhisperError

    by_folder = dict(zip(folders, saes, strict=True))
    for seed in seeds:
        if seed not in by_folder and seed not in saes:
            raise HookedWhisperError(f"--seeds names {seed}, which is not among the SAEs: {', '.join(folders)}")
    if len(seeds) == 1:
        raise HookedWhisperError("--seeds compares SAEs: name two or more")
    return tuple(by_folder.get(seed, seed) for seed in seeds)


def _scored(parsed: argparse.Namespace) -> tuple[Sequence[Recording], str]:
    """Return the recordings of ``--audio``; without it sentences by held-out voices, packaged or of the demo model."""
    from hooked_whisper.corpora.packaged import packaged_speech
    from hooked_whisper.findings.core.sources import synthetic_corpus_of

    if parsed.audio or synthetic_corpus_of(parsed.model) is not None:
        return corpus_of(parsed)
    corpus = packaged_speech("prose", split="held-out")
    return corpus, f"{len(corpus)} packaged recordings by held-out voices"


def _fitted(parsed: argparse.Namespace) -> Sequence[Recording]:
    """Return the recordings of ``--fit-audio``; without it speech by training voices, packaged or of the demo model."""
    from hooked_whisper.corpora.packaged import packaged_speech
    from hooked_whisper.findings.core.sources import synthetic_corpus_of

    if parsed.fit_audio or (not parsed.audio and synthetic_corpus_of(parsed.model) is not None):
        return speech_to_fit(parsed, FITTED)
    return packaged_speech(split="train")


def in_turns(corpus: Sequence[Recording]) -> list[Recording]:
    """Return the recordings so that speakers take turns: the first of each, then the second of each, ..."""
    turn: Counter[str] = Counter()
    numbered = []
    for recording in corpus:
        numbered.append((turn[recording.speaker], recording))
        turn[recording.speaker] += 1
    return [recording for _, recording in sorted(numbered, key=lambda pair: pair[0])]


def by_speaker(clips: Sequence[Clip]) -> list[Clip]:
    """Return clips so that those of a speaker are together, in their order; windows are filled with one speaker."""
    speakers = list(dict.fromkeys(clip.speaker for clip in clips))
    return sorted(clips, key=lambda clip: speakers.index(clip.speaker))


def _notes(recordings: Sequence[Recording], clips: Sequence[Clip], most: int) -> list[str]:
    """Return what a reader of the scores must know about the recordings."""
    notes = []
    without = len(recordings) - sum(not clip.offset for clip in clips)
    if without and len(clips) < most:
        notes.append(f"not scored, without phones or unreadable: {without} of {len(recordings)} recordings")
    if anonymous := sum(not recording.speaker for recording in recordings):
        notes.append(
            f"{anonymous} recordings name no speaker: each counts as a speaker by itself, so that one person may be "
            "both fitted and scored"
        )
    return notes


def _key(
    saes: Mapping[str, LoadedSAE],
    model: HookedWhisper,
    fitted: Mapping[str, Tensor],
    clips: Sequence[Clip],
    options: object,
) -> str:
    """Return a digest of everything that scores depend on; scores with another one are computed again."""
    from hooked_whisper.loading import weights_sha256

    digest = hashlib.sha256(f"{weights_sha256(model)} {options!r}".encode())
    for name, loaded in saes.items():
        inner = loaded.sae.inner
        digest.update(f"{name} {inner.architecture} {inner.config!r} {loaded.sae.normalization}".encode())
        for key, value in sorted(loaded.sae.state_dict().items()):
            digest.update(key.encode() + value.float().cpu().numpy().tobytes())
    for point, rows in sorted(fitted.items()):
        digest.update(point.encode() + rows.float().cpu().numpy().tobytes())
    for clip in clips:
        digest.update(
            f"{clip.speaker} {clip.alignment.text} {clip.alignment.phones!r}".encode() + clip.samples.tobytes()
        )
    return digest.hexdigest()

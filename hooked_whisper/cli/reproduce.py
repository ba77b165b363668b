"""``hooked-whisper reproduce``: run findings on a model and write them as JSON and one page."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hooked_whisper.cli.corpus_arguments import add_layout, add_texts, refuse_without
from hooked_whisper.cli.model_arguments import add_model, check_language, load_model, not_negative, positive
from hooked_whisper.cli.prepare import check_files, check_output, find_model
from hooked_whisper.cli.running import version

if TYPE_CHECKING:  # torch takes a second to import; --help and wrong arguments need not wait for it
    from hooked_whisper.corpora import Recording
    from hooked_whisper.findings import Finding
    from hooked_whisper.hooked import HookedWhisper


def add_reproduce(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``reproduce``."""
    parser.add_argument("--only", metavar="IDS", help="run only these findings, such as F2,F9 (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("findings"), metavar="DIR", help="output folder (default: findings)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="keep the findings already saved in --out by a run with the same settings, and run the others",
    )
    parser.add_argument("--seed", type=not_negative, default=0, metavar="S", help="random seed (default: 0)")
    parser.add_argument(
        "--or-demo",
        action="store_true",
        help="if the weights of the model cannot be found, say so and use the packaged demo model",
    )
    group = parser.add_argument_group("recordings")
    speech = group.add_mutually_exclusive_group()
    speech.add_argument(
        "--audio", nargs="+", default=[], metavar="FILE", help="your own recordings (wav, flac, mp3, ogg, ...)"
    )
    speech.add_argument(
        "--corpus", metavar="PLACE", help="path or URL of a corpus: folder, LibriSpeech, TIMIT, table, ..."
    )
    add_layout(group)
    add_texts(group, default="own")
    group.add_argument(
        "--utterances", type=positive, default=100, metavar="N", help="number of clips (default: 100); F5 to F8 use all"
    )
    group.add_argument("--language", default="en", metavar="L", help="language of the recordings (default: en)")
    add_model(parser)


def run_reproduce(parsed: argparse.Namespace, arguments: list[str]) -> int:
    """Run the findings, print each, and write the page. Return 1 if a recording or finding failed."""
    from hooked_whisper.findings.core.serialization import load_findings
    from hooked_whisper.findings.core.sources import make_context
    from hooked_whisper.findings.registry import select_experiments
    from hooked_whisper.findings.running import run_and_save
    from hooked_whisper.report import model_card, write_attention_pages, write_linked_pages, write_page

    began = time.monotonic()
    experiments = select_experiments(parsed.only)
    check_output(parsed.out)
    corpus = _corpus(parsed)
    model, facts = _model_or_demo(parsed)
    parsed.out.mkdir(parents=True, exist_ok=True)
    context = make_context(
        model,
        parsed.model,
        corpus=corpus,
        corpus_name=Path(parsed.corpus).name if parsed.corpus else "your recordings",
        utterances=parsed.utterances,
        language=parsed.language,
        seed=parsed.seed,
        speech=any(experiment.needs_speech for experiment in experiments),
        progress=sys.stderr.isatty(),
        own_texts=parsed.texts == "own",
    )
    for failure in context.failures:
        print(f"skipped {failure.id}: {failure.reason}", file=sys.stderr)
    about = {
        "version": version(),
        "command": shlex.join(["hooked-whisper", *arguments]),
        "origin": (context.facts or {}).get("origin", ""),
        "date": time.strftime("%Y-%m-%d"),
    }
    path = parsed.out / "findings.json"
    for finding in run_and_save(experiments, context, path, _settings(parsed), resume=parsed.resume, **about):
        cost = f"{finding.seconds:.0f} s" if finding.seconds is not None else "time unknown"
        print(f"{finding.id:<4} {finding.status:<20} {_headline(finding)} ({cost})", flush=True)
    about["seconds"] = f"{time.monotonic() - began:.0f}"
    findings = load_findings(path)
    attention = write_attention_pages(parsed.out, findings, model, context.utterances, parsed.language)
    pages = write_linked_pages(parsed.out, findings, context)
    card = model_card(model, facts)
    write_page(parsed.out / "index.html", findings, context.utterances, card, about, attention, pages)
    print(f"open {parsed.out / 'index.html'}")
    return 1 if context.failures or any(f.status == "error" for f in findings) else 0


def _settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the numbers depend on."""
    names = ("model", "audio", "corpus", "layout", "phones", "alignments", "texts", "utterances", "language", "seed")
    return {"version": version(), **{name: getattr(parsed, name) for name in names}}


def _headline(finding: Finding) -> str:
    """Return the number that decided the status with its threshold, or why there is none."""
    from hooked_whisper.findings.core.finding import describe

    if finding.deciding is None or finding.status in ("not testable", "error"):
        return finding.status_reason
    return describe(finding.deciding)


def _corpus(parsed: argparse.Namespace) -> list[Recording] | None:
    """Return the recordings of the arguments, or ``None``. Runs before anything slow starts."""
    from hooked_whisper.corpora import Recording, open_corpus

    if parsed.corpus:
        return open_corpus(parsed.corpus, parsed.layout, alignments=parsed.alignments, phones=parsed.phones)
    refuse_without(parsed, "--corpus")
    if parsed.audio:
        check_files(parsed.audio)
    names = [Path(file).name for file in parsed.audio]
    ids = [name if names.count(name) == 1 else file for name, file in zip(names, parsed.audio, strict=True)]
    return [Recording(id, file, file) for id, file in zip(ids, parsed.audio, strict=True)] or None


def _model_or_demo(parsed: argparse.Namespace) -> tuple[HookedWhisper, dict[str, str]]:
    """Check name and language, and load the model; with ``--or-demo``, the demo model if its weights are not found."""
    from hooked_whisper.errors import MissingWeightsError

    try:
        named = find_model(parsed.model)
        check_language(named.shapes, parsed.language)
        return load_model(parsed, named.checkpoint)
    except MissingWeightsError as error:
        if not parsed.or_demo:
            raise
        reason = " ".join(str(error).split())
        print(f"no weights of {parsed.model}: running on the packaged demo model instead ({reason})", file=sys.stderr)
        parsed.model = "demo"
        return load_model(parsed)

"""``sae-lens-audio evaluate``: score SAEs beside baselines; write a table, JSON and a sheet of figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
    from hooked_whisper.corpora import Recording

SENTENCES, FITTED, ATTACHED = 300, 150, 100
_FIT_SHARE = 0.25  # share of a user's recordings, by speaker, to fit baselines on


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``evaluate``."""
    parser.add_argument(
        "saes",
        nargs="+",
        metavar="FOLDER",
        help="SAEs of one hook point (folders in the format of SAELens, sparsify or dictionary_learning, or names of "
        "packaged SAEs such as tiny.en/encoder.blocks.2)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("evaluation"), metavar="DIR", help="output folder (default: evaluation)"
    )
    parser.add_argument(
        "--hook-out", metavar="NAME", help="hook point that transcoders predict (default: the one in their folders)"
    )
    parser.add_argument(
        "--clips", type=positive, default=1000, metavar="N", help="maximum number of windows to score (default: 1000)"
    )
    parser.add_argument(
        "--attached", type=not_negative, default=ATTACHED, metavar="N",
        help=f"clips to decode with each SAE attached, 0 for none (default: {ATTACHED})",
    )  # fmt: skip
    parser.add_argument(  # its name in version 0.1
        "--spliced", dest="attached", type=not_negative, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--fit-audio", metavar="PLACE",
        help="recordings to fit baselines on (default: a quarter of the speakers of --audio, who are then not scored; "
        "without --audio other sentences by the training voices)",
    )  # fmt: skip
    parser.add_argument(
        "--fit",
        type=positive,
        default=FITTED,
        metavar="N",
        help=f"maximum number of windows to fit on (default: {FITTED})",
    )
    parser.add_argument(
        "--seeds", action="store_true", help="the SAEs differ only in their seed: score which features recur"
    )
    parser.add_argument("--no-phones", action="store_true", help="skip phone scores")
    parser.add_argument(
        "--min-tokens", type=positive, default=50, metavar="N", help="skip phones with fewer tokens (50)"
    )
    parser.add_argument(
        "--memory",
        type=positive,
        default=1,
        metavar="GIB",
        help="memory for activations; the rest goes to temporary files (1 GiB)",
    )
    parser.add_argument(
        "--seed", type=not_negative, default=0, metavar="S", help="seed of sentences and random draws (0)"
    )
    add_corpus(parser, sentences=SENTENCES, speakers="held-out")
    add_record_arguments(parser)


def run_evaluate(parsed: argparse.Namespace, arguments: list[str] | None = None) -> int:
    """Score the SAEs, print a table, write ``scores.json`` and ``scores.png``."""
    _check_options(parsed)
    saes = load_saes(parsed.saes)
    named = model_of(parsed, saes)
    hooks = hooks_of(parsed, saes, named.shapes, parsed.hook_out)
    check_language(named.shapes, parsed.language)
    corpus, fitted, described = _corpora(parsed)

    from hooked_whisper.corpora import own_alignments_fact, own_text_fact
    from hooked_whisper.features.phones.labeled_clips import labeled_clips
    from sae_lens_audio.evals.evaluate import EvaluationOptions, evaluate
    from sae_lens_audio.evals.evaluation import SCORES, SHEET
    from sae_lens_audio.evals.phones import PhoneOptions
    from sae_lens_audio.evals.rows import gather_rows

    model, _ = load_model(parsed, named.checkpoint)
    check_weights(parsed, model, saes)
    corpus, fitted = (texts_of(parsed, model, list(part)) for part in (corpus, fitted))
    clips = labeled_clips(model, corpus, parsed.clips)
    texts = own_text_fact(corpus) or own_alignments_fact(clip.alignment for clip in clips.clips)
    fitted_clips = labeled_clips(model, fitted, parsed.fit)
    rows = gather_rows(
        model, fitted_clips.clips, list(dict.fromkeys([hooks.reads, hooks.predicts or hooks.reads])),
        language=parsed.language, seed=parsed.seed,
    )  # fmt: skip
    evaluation = evaluate(
        model,
        {name: sae.sae.float().to(model.device) for name, sae in saes.items()},
        hooks.reads,
        clips.clips,
        rows[hooks.reads] if hooks.predicts is None else (rows[hooks.reads], rows[hooks.predicts]),
        EvaluationOptions(
            attached_clips=parsed.attached,
            where="all" if any(sae.metadata.padding == "kept" for sae in saes.values()) else "sound",
            phones=None
            if parsed.no_phones
            else PhoneOptions(min_tokens=parsed.min_tokens, memory=parsed.memory << 30, seed=parsed.seed),
            language=parsed.language,
            seed=parsed.seed,
        ),
        hook_out=hooks.predicts,
        seeds=tuple(saes) if parsed.seeds else (),
        progress=sys.stderr.isatty(),
        about={
            "corpus": described,
            **({"texts": texts} if texts else {}),
            "failures": [list(failure) for failure in clips.failures],
            "folders": {name: str(sae.source) for name, sae in saes.items()},
        },
    )
    evaluation.save(parsed.out)
    print(evaluation)
    if texts:
        print(f"texts: {texts}")
    print(f"\n{parsed.out / SCORES} and {parsed.out / SHEET} have all scores")
    failures = list(dict.fromkeys([*clips.failures, *fitted_clips.failures]))
    return report_failures(failures, len(corpus) + len(fitted))


def _check_options(parsed: argparse.Namespace) -> None:
    """Raise ``HookedWhisperError`` if the output cannot be written or an option would have no effect."""
    from hooked_whisper.errors import HookedWhisperError

    check_output(parsed.out)
    check_corpus_options(parsed)
    if parsed.seeds and len(parsed.saes) < 2:
        raise HookedWhisperError("--seeds compares SAEs, but only one is given: give the folders of two or more")


def _corpora(parsed: argparse.Namespace) -> tuple[Sequence[Recording], Sequence[Recording], str]:
    """Return the recordings to score, those to fit baselines on, and a description of the former."""
    from hooked_whisper.corpora import split_by_speaker
    from hooked_whisper.errors import AudioError

    corpus, described = corpus_of(parsed)
    if parsed.fit_audio or not parsed.audio:
        return corpus, speech_to_fit(parsed, parsed.fit), described
    try:
        train, test = split_by_speaker(corpus, _FIT_SHARE, parsed.seed)
    except AudioError as error:
        raise AudioError(f"{error}; or give other recordings to fit baselines on with --fit-audio") from error
    scored = [corpus[i] for i in test]
    return scored, [corpus[i] for i in train], f"{described}, {len(scored)} of them scored"

"""``sae-lens-audio evaluate``: score SAEs beside baselines; write a table, JSON and a sheet of figures."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_whisper.cli.corpus_arguments import add_corpus, corpus_of, report_failures, texts_of
from hooked_whisper.cli.model_arguments import add_model, check_language, load_model, not_negative, positive

if TYPE_CHECKING:
    from hooked_whisper.corpora import Recording
    from hooked_whisper.hooked import HookedWhisper
    from sae_lens_audio.formats import LoadedSAE

log = logging.getLogger(__name__)
SENTENCES, FITTED, ATTACHED = 300, 150, 100
_FIT_SHARE = 0.25  # share of a user's recordings, by speaker, to fit baselines on


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "saes",
        nargs="+",
        metavar="FOLDER",
        help="SAEs of one hook point (folders in the format of SAELens, sparsify or dictionary_learning)",
    )
    add_model(parser)
    parser.add_argument("--hook", metavar="NAME", help="hook point (default: as the folders say)")
    parser.add_argument(
        "--hook-out", metavar="NAME", help="hook point that transcoders predict (default: as the folders say)"
    )
    add_corpus(parser, sentences=SENTENCES, speakers="held-out")
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
    parser.add_argument("--language", default="en", metavar="L", help="of the texts (default: en)")
    parser.add_argument(
        "--out", type=Path, default=Path("evaluation"), metavar="DIR", help="folder (default: evaluation)"
    )
    parser.add_argument(
        "--seed", type=not_negative, default=0, metavar="S", help="seed of sentences and random draws (0)"
    )


def run_evaluate(parsed: argparse.Namespace) -> int:
    """Score the SAEs, print a table, write ``scores.json`` and ``scores.png``."""
    from hooked_whisper.corpora import own_alignments_fact, own_text_fact
    from hooked_whisper.features.phones.labeled_clips import labeled_clips
    from sae_lens_audio.evals.evaluate import EvaluationOptions, evaluate
    from sae_lens_audio.evals.evaluation import SCORES, SHEET
    from sae_lens_audio.evals.phones import PhoneOptions
    from sae_lens_audio.evals.rows import gather_rows

    loaded = _loaded(parsed.saes)
    hook = _one_hook(loaded, parsed.hook, "hook_name", "--hook")
    hook_out = _one_hook(loaded, parsed.hook_out, "hook_name_out", "--hook-out")
    assert hook is not None
    model, _ = load_model(parsed)
    check_language(model, parsed.language)
    _check_model(model, loaded)
    reads, writes = (model.hook_names(name)[0] for name in (hook, hook_out or hook))
    corpus, fitted, described = _corpora(parsed)
    corpus, fitted = (texts_of(parsed, model, list(part)) for part in (corpus, fitted))
    clips = labeled_clips(model, corpus, parsed.clips)
    texts = own_text_fact(corpus) or own_alignments_fact(clip.alignment for clip in clips.clips)
    fitted_clips = labeled_clips(model, fitted, parsed.fit)
    rows = gather_rows(
        model, fitted_clips.clips, list(dict.fromkeys([reads, writes])),
        language=parsed.language, seed=parsed.seed,
    )  # fmt: skip
    evaluation = evaluate(
        model,
        {name: sae.sae.float().to(model.device) for name, sae in loaded.items()},
        hook,
        clips.clips,
        rows[reads] if hook_out is None else (rows[reads], rows[writes]),
        EvaluationOptions(
            attached_clips=parsed.attached,
            where="all" if any(sae.metadata.padding == "kept" for sae in loaded.values()) else "sound",
            phones=None
            if parsed.no_phones
            else PhoneOptions(min_tokens=parsed.min_tokens, memory=parsed.memory << 30, seed=parsed.seed),
            language=parsed.language,
            seed=parsed.seed,
        ),
        hook_out=hook_out,
        seeds=tuple(loaded) if parsed.seeds else (),
        progress=sys.stderr.isatty(),
        about={
            "corpus": described,
            **({"texts": texts} if texts else {}),
            "failures": [list(failure) for failure in clips.failures],
            "folders": {name: str(sae.source) for name, sae in loaded.items()},
        },
    )
    evaluation.save(parsed.out)
    print(evaluation)
    if texts:
        print(f"texts: {texts}")
    print(f"\n{parsed.out / SCORES} and {parsed.out / SHEET} have all scores")
    failures = list(dict.fromkeys([*clips.failures, *fitted_clips.failures]))
    return report_failures(failures, len(corpus) + len(fitted))


def _loaded(folders: Sequence[str]) -> dict[str, LoadedSAE]:
    """Load SAEs, named after their folders; by path if two folders have the same name."""
    from hooked_whisper.errors import HookedWhisperError
    from sae_lens_audio.formats import load_sae

    paths = list(dict.fromkeys(str(Path(folder)) for folder in folders))
    if len(paths) < len(folders):
        raise HookedWhisperError("a folder is given twice: name each SAE once")
    names = [Path(path).resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = paths
    return {name: load_sae(path) for name, path in zip(names, paths, strict=True)}


def _one_hook(loaded: dict[str, LoadedSAE], value: str | None, key: str, argument: str) -> str | None:
    """Return the hook point of the command line, else the one that all folders name."""
    from hooked_whisper.errors import HookedWhisperError

    hooks = {name: getattr(sae.metadata, key) for name, sae in loaded.items()}
    if value:
        for name, hook in hooks.items():
            if hook and hook != value:
                log.warning("%s was trained at %s, but %s scores it at %s", name, hook, argument, value)
        return value
    if len(set(hooks.values())) > 1:
        listed = ", ".join(f"{name} {hook or 'none'}" for name, hook in hooks.items())
        raise HookedWhisperError(
            f"the folders name different hook points ({listed}): give SAEs of one point, or {argument}"
        )
    hook = next(iter(hooks.values()))
    if not hook and argument == "--hook":
        raise HookedWhisperError(f"{next(iter(hooks))} does not say which hook point it reads: name it with {argument}")
    return hook or None


def _check_model(model: HookedWhisper, loaded: dict[str, LoadedSAE]) -> None:
    """Warn about SAEs that were trained on other model weights."""
    from hooked_whisper.findings.core.context import released_name
    from hooked_whisper.loading import weights_sha256

    model_digest = ""
    for name, sae in loaded.items():
        checkpoint, digest = sae.metadata.checkpoint, sae.metadata.checkpoint_sha256
        if digest:
            model_digest = model_digest or weights_sha256(model)
            foreign = digest != model_digest
        else:
            foreign = checkpoint is not None and released_name(checkpoint) != released_name(model.cfg.name)
        if foreign:
            log.warning(
                "%s was trained on %s, whose weights are not those of %s: give that model with --model, or read its "
                "scores as those of an SAE on another model", name, checkpoint or "another model", model.cfg.name,
            )  # fmt: skip


def _corpora(parsed: argparse.Namespace) -> tuple[Sequence[Recording], Sequence[Recording], str]:
    """Return the recordings to score, those to fit baselines on, and a description of the former."""
    from hooked_whisper.corpora import split_by_speaker
    from hooked_whisper.errors import AudioError

    corpus, described = corpus_of(parsed)
    if parsed.fit_audio:
        fit_arguments = argparse.Namespace(**vars(parsed) | {"audio": parsed.fit_audio, "alignments": None})
        return corpus, corpus_of(fit_arguments)[0], described
    if not parsed.audio:
        changed = {"sentences": parsed.fit, "speakers": "train", "seed": parsed.seed + 1}
        return corpus, corpus_of(argparse.Namespace(**vars(parsed) | changed))[0], described
    try:
        train, test = split_by_speaker(corpus, _FIT_SHARE, parsed.seed)
    except AudioError as error:
        raise AudioError(f"{error}; or give other recordings to fit baselines on with --fit-audio") from error
    scored = [corpus[i] for i in test]
    return scored, [corpus[i] for i in train], f"{described}, {len(scored)} of them scored"

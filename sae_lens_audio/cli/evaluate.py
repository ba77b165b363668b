"""``sae-lens-audio evaluate``: scores of dictionaries beside baselines, as a table, a JSON and a sheet of figures."""

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
    from sae_lens_audio.formats import Loaded

log = logging.getLogger(__name__)
SPOKEN, FITTED, SPLICED = 300, 150, 100
_SHARE = 0.25  # of a user's recordings, by speaker, that baselines are fitted on


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """All arguments of the command."""
    parser.add_argument(
        "dictionaries",
        nargs="+",
        metavar="FOLDER",
        help="dictionaries of one hook point (folders of ours, SAELens, sparsify, dictionary_learning)",
    )
    add_model(parser)
    parser.add_argument("--hook", metavar="NAME", help="hook point (default: the one that the folders name)")
    parser.add_argument(
        "--hook-out", metavar="NAME", help="of transcoders, the point they predict (default: as the folders say)"
    )
    add_corpus(parser, sentences=SPOKEN, speakers="held-out")
    parser.add_argument(
        "--clips", type=positive, default=1000, metavar="N", help="most windows that are scored (default: 1000)"
    )
    parser.add_argument(
        "--spliced", type=not_negative, default=SPLICED, metavar="N",
        help=f"clips decoded in every condition, 0 for none (default: {SPLICED})",
    )  # fmt: skip
    parser.add_argument(
        "--fit-audio", metavar="PLACE",
        help="recordings that baselines are fitted on (default: a quarter of the speakers of --audio, who are then not "
        "scored; without --audio other sentences by the voices of training)",
    )  # fmt: skip
    parser.add_argument(
        "--fit", type=positive, default=FITTED, metavar="N", help=f"windows of those, at most (default: {FITTED})"
    )
    parser.add_argument(
        "--seeds", action="store_true", help="the folders differ by their seed alone: which features are found again"
    )
    parser.add_argument("--no-phones", action="store_true", help="leave phones out")
    parser.add_argument(
        "--min-tokens", type=positive, default=50, metavar="N", help="phones said less often are not judged (50)"
    )
    parser.add_argument(
        "--memory", type=positive, default=1, metavar="GIB", help="of activations, more go to temporary files (1 GiB)"
    )
    parser.add_argument("--language", default="en", metavar="L", help="of the texts (default: en)")
    parser.add_argument(
        "--out", type=Path, default=Path("evaluation"), metavar="DIR", help="folder (default: evaluation)"
    )
    parser.add_argument("--seed", type=not_negative, default=0, metavar="S", help="of sentences and draws (0)")


def run_evaluate(parsed: argparse.Namespace) -> int:
    """Score, print a table, write ``scores.json`` and ``scores.png``."""
    from hooked_whisper.corpora.own_texts import own_alignments_fact, own_text_fact
    from sae_lens_audio.evals.evaluate import EvaluationOptions, evaluate
    from sae_lens_audio.evals.evaluation import SCORES, SHEET
    from sae_lens_audio.evals.phones import PhoneOptions
    from sae_lens_audio.evals.rows import gather_rows, labelled_clips

    loaded = _loaded(parsed.dictionaries)
    hook = _one_hook(loaded, parsed.hook, "hook_name", "--hook")
    hook_out = _one_hook(loaded, parsed.hook_out, "hook_name_out", "--hook-out")
    assert hook is not None
    model, _ = load_model(parsed)
    check_language(model, parsed.language)
    _check_model(model, loaded)
    reads, writes = (model.hook_names(one)[0] for one in (hook, hook_out or hook))
    corpus, fitted, described = _corpora(parsed)
    corpus, fitted = (texts_of(parsed, model, list(part)) for part in (corpus, fitted))
    clips = labelled_clips(model, corpus, parsed.clips)
    texts = own_text_fact(corpus) or own_alignments_fact(clip.alignment for clip in clips.clips)
    fitted_clips = labelled_clips(model, fitted, parsed.fit)
    rows = gather_rows(
        model, fitted_clips.clips, list(dict.fromkeys([reads, writes])),
        language=parsed.language, seed=parsed.seed,
    )  # fmt: skip
    found = evaluate(
        model,
        {name: one.sae.float().to(model.device) for name, one in loaded.items()},
        hook,
        clips.clips,
        rows[reads] if hook_out is None else (rows[reads], rows[writes]),
        EvaluationOptions(
            spliced_clips=parsed.spliced,
            where="all" if any(one.metadata.padding == "kept" for one in loaded.values()) else "sound",
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
            "failures": [list(one) for one in clips.failures],
            "folders": {name: str(one.source) for name, one in loaded.items()},
        },
    )
    found.save(parsed.out)
    print(found)
    if texts:
        print(f"texts: {texts}")
    print(f"\n{parsed.out / SCORES} and {parsed.out / SHEET} have it all")
    failures = list(dict.fromkeys([*clips.failures, *fitted_clips.failures]))
    return report_failures(failures, len(corpus) + len(fitted))


def _loaded(folders: Sequence[str]) -> dict[str, Loaded]:
    """By the folders' names, or their paths where two have one name."""
    from hooked_whisper.errors import HookedWhisperError
    from sae_lens_audio.formats import load_sae

    paths = list(dict.fromkeys(str(Path(folder)) for folder in folders))
    if len(paths) < len(folders):
        raise HookedWhisperError("a folder is named twice: a dictionary is scored once")
    names = [Path(path).resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = paths
    return {name: load_sae(path) for name, path in zip(names, paths, strict=True)}


def _one_hook(loaded: dict[str, Loaded], given: str | None, key: str, argument: str) -> str | None:
    """The point that was asked for, else the one that all folders name."""
    from hooked_whisper.errors import HookedWhisperError

    said = {name: getattr(one.metadata, key) for name, one in loaded.items()}
    if given:
        for name, hook in said.items():
            if hook and hook != given:
                log.warning("%s was trained at %s, it is scored at %s as %s says", name, hook, given, argument)
        return given
    if len(set(said.values())) > 1:
        listed = ", ".join(f"{name} {hook or 'none'}" for name, hook in said.items())
        raise HookedWhisperError(f"the folders name different hook points ({listed}): give those of one, or {argument}")
    hook = next(iter(said.values()))
    if not hook and argument == "--hook":
        raise HookedWhisperError(f"{next(iter(said))} does not say which hook point it reads: name it with {argument}")
    return hook or None


def _check_model(model: HookedWhisper, loaded: dict[str, Loaded]) -> None:
    """Dictionaries of other weights are scored all the same, and told of."""
    from hooked_whisper.findings.core.context import released_name
    from hooked_whisper.loading import weights_sha256

    own = ""
    for name, one in loaded.items():
        noted, digest = one.metadata.checkpoint, one.metadata.checkpoint_sha256
        if digest:
            own = own or weights_sha256(model)
            foreign = digest != own
        else:
            foreign = noted is not None and released_name(noted) != released_name(model.cfg.name)
        if foreign:
            log.warning(
                "%s was trained on %s, whose weights are not those of %s: give that model with --model, or take its "
                "scores as those of a dictionary in a foreign place", name, noted or "another model", model.cfg.name,
            )  # fmt: skip


def _corpora(parsed: argparse.Namespace) -> tuple[Sequence[Recording], Sequence[Recording], str]:
    """Recordings to be scored, recordings that baselines are fitted on, and a phrase about the former."""
    from hooked_whisper.corpora import split_by_speaker
    from hooked_whisper.errors import AudioError

    corpus, described = corpus_of(parsed)
    if parsed.fit_audio:
        other = argparse.Namespace(**vars(parsed) | {"audio": parsed.fit_audio, "alignments": None})
        return corpus, corpus_of(other)[0], described
    if not parsed.audio:
        changed = {"sentences": parsed.fit, "speakers": "train", "seed": parsed.seed + 1}
        return corpus, corpus_of(argparse.Namespace(**vars(parsed) | changed))[0], described
    try:
        train, test = split_by_speaker(corpus, _SHARE, parsed.seed)
    except AudioError as error:
        raise AudioError(f"{error}; or give other recordings with --fit-audio, that baselines are fitted on") from error
    scored = [corpus[i] for i in test]
    return scored, [corpus[i] for i in train], f"{described}, {len(scored)} of them scored"

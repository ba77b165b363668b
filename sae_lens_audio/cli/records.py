"""Check SAEs of a command line against a model before anything slow starts: model, hook points, widths."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_whisper.cli.model_arguments import add_model
from hooked_whisper.cli.prepare import NamedModel, find_model

if TYPE_CHECKING:
    from hooked_whisper.corpora import Recording
    from hooked_whisper.hooked import HookedWhisper
    from sae_lens_audio.formats import LoadedSAE

log = logging.getLogger(__name__)

DEFAULT_MODEL = "demo"  # of SAEs whose folder names no model


@dataclass(frozen=True)
class HookPair:
    """Canonical names of the hook point that SAEs read and, for transcoders, of the one that they predict."""

    reads: str
    predicts: str | None


def add_record_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that the SAE's own record answers: ``--model``, ``--hook`` and ``--allow-mismatch``."""
    parser.add_argument(
        "--hook",
        metavar="NAME",
        help="hook point (default: the one in the SAE's folder); those of a crosscoder separated by commas",
    )
    parser.add_argument(
        "--allow-mismatch",
        action="store_true",
        help="warn, instead of refusing, if model or hook point are not those that the SAE was trained on",
    )
    add_model(parser, default=None, default_help=f"default: the model in the SAE's folder, else {DEFAULT_MODEL}")


def load_saes(folders: Sequence[str]) -> dict[str, LoadedSAE]:
    """Load SAEs, named after their folders; the folder of a run, ``topk/sae``, keeps the name of the run, and folders
    of the same name have their paths. Instead of a folder, ``tiny.en/encoder.blocks.2`` names a packaged SAE, which is
    called as its folder, ``topk-x2``.

    Raises:
        HookedWhisperError: a folder is given twice, or holds no SAE.
    """
    from hooked_whisper.errors import HookedWhisperError
    from sae_lens_audio.releases import load_named

    paths = list(dict.fromkeys(str(Path(folder)) if "://" not in folder else folder for folder in folders))
    if len(paths) < len(folders):
        raise HookedWhisperError("a folder is given twice: name each SAE once")
    saes = [load_named(path) for path in paths]
    names = [_short_name(_folder(path, sae)) for path, sae in zip(paths, saes, strict=True)]
    return dict(zip(names if len(set(names)) == len(names) else paths, saes, strict=True))


def _folder(path: str, sae: LoadedSAE) -> Path:
    """Return the folder that was named, or that of a packaged SAE."""
    is_place = "://" in path or Path(path).expanduser().exists()
    return Path(path).resolve() if is_place else Path(str(sae.source)).parent


def speech_to_fit(parsed: argparse.Namespace, sentences: int) -> list[Recording]:
    """Return the recordings of ``--fit-audio``; without it other sentences of the demo model by training voices."""
    from hooked_whisper.cli.corpus_arguments import corpus_of

    changed: dict[str, object] = {"audio": parsed.fit_audio, "alignments": None}
    if not parsed.fit_audio:
        changed = {"sentences": sentences, "speakers": "train", "seed": parsed.seed + 1}
    return corpus_of(argparse.Namespace(**vars(parsed) | changed))[0]


def _short_name(path: Path) -> str:
    """Return the name of a folder, with its parent's if a run has named it: ``sae``, or ``at-0.25`` of a checkpoint."""
    named_by_run = path.name == "sae" or path.name.startswith("at-")
    return f"{path.parent.name}/{path.name}" if named_by_run else path.name


def model_of(parsed: argparse.Namespace, saes: Mapping[str, LoadedSAE]) -> NamedModel:
    """Return the model of ``--model``, else the one that the SAEs record; set ``parsed.model``.

    Raises:
        HookedWhisperError: the SAEs record different models, or another one than ``--model``.
        UnknownModelError: the model does not exist.
    """
    from hooked_whisper.errors import HookedWhisperError, UnknownModelError
    from hooked_whisper.findings.core.context import released_name
    from hooked_whisper.loading import model_names

    recorded = {name: sae.metadata.checkpoint for name, sae in saes.items()}
    models = {released_name(model): model for model in recorded.values() if model}
    if parsed.model is None and len(models) > 1:
        listed = ", ".join(f"{name}: {model or 'none'}" for name, model in recorded.items())
        raise HookedWhisperError(f"the SAEs were trained on different models ({listed}): give SAEs of one model")
    user_named_it = parsed.model is not None
    parsed.model = parsed.model or next(iter(models.values()), DEFAULT_MODEL)
    try:
        named = find_model(parsed.model)
    except UnknownModelError as error:
        if user_named_it:
            raise
        name = next(name for name, model in recorded.items() if model)
        raise UnknownModelError(
            f"{name} was trained on {parsed.model!r}, which is neither a known model nor a path here: give its path "
            f"with --model ({error})"
        ) from error
    actual = released_name(named.shapes.cfg.name)
    for name, sae in saes.items():
        model = sae.metadata.checkpoint
        if model is None or released_name(model) in (actual, released_name(parsed.model)):
            continue
        # a digest decides between names that say little, such as that of a fine-tuned model
        if sae.metadata.checkpoint_sha256 is None or {released_name(model), actual} <= set(model_names()):
            _refuse(parsed, f"{name} was trained on {model}, but --model is {parsed.model}")
    return named


def check_weights(parsed: argparse.Namespace, model: HookedWhisper, saes: Mapping[str, LoadedSAE]) -> None:
    """Compare the digest of the weights with the one that each SAE records, if it has one.

    Raises:
        HookedWhisperError: they differ.
    """
    from hooked_whisper.loading import weights_sha256

    digests = {name: sae.metadata.checkpoint_sha256 for name, sae in saes.items() if sae.metadata.checkpoint_sha256}
    digest = weights_sha256(model) if digests else ""
    for name, recorded in digests.items():
        if recorded != digest:
            trained_on = saes[name].metadata.checkpoint or "another model"
            _refuse(
                parsed,
                f"{name} was trained on {trained_on} with weights {recorded[:12]}..., but {parsed.model} has the "
                f"weights {digest[:12]}...",
            )


def hooks_of(
    parsed: argparse.Namespace, saes: Mapping[str, LoadedSAE], shapes: HookedWhisper, hook_out: str | None = None
) -> HookPair:
    """Return the hook points of the command line, else those that all SAEs record, and check the widths.

    Raises:
        HookedWhisperError: the SAEs record different points, or others than the command line, or none.
        ShapeError: an SAE takes or predicts vectors of another width.
    """
    from hooked_whisper.errors import HookedWhisperError

    for name, loaded in saes.items():
        if loaded.sae.reads_several_hooks:
            raise HookedWhisperError(
                f"{name} is a crosscoder, which reads several hook points at once: this command needs an SAE of one"
            )
    reads = _recorded_hook(parsed, saes, shapes, parsed.hook, "hook_name", "--hook")
    if reads is None:
        raise HookedWhisperError(f"{next(iter(saes))} does not say which hook point it reads: name it with --hook")
    predicts = _recorded_hook(parsed, saes, shapes, hook_out, "hook_name_out", "--hook-out")
    for name, loaded in saes.items():
        if loaded.sae.predicts_other_hook != (predicts is not None):
            fix = "name the point that it predicts with --hook-out" if predicts is None else "omit --hook-out"
            raise HookedWhisperError(f"{name} is {'a' if predicts is None else 'not a'} transcoder: {fix}")
    names = [_canonical(shapes, name) for name in (reads, predicts) if name is not None]
    _check_widths(saes, shapes, names)
    return HookPair(names[0], names[1] if len(names) > 1 else None)


def crosscoder_hooks(
    parsed: argparse.Namespace, saes: Mapping[str, LoadedSAE], shapes: HookedWhisper
) -> tuple[str, ...]:
    """Return the hook points of one crosscoder: those of ``--hook``, separated by commas, else those it records.

    Raises:
        HookedWhisperError: it records none, others than the command line, or another number.
        ShapeError: a hook point has vectors of another width.
    """
    from hooked_whisper.errors import HookedWhisperError

    (name,) = saes
    recorded = _listed(saes[name].metadata.hook_name)
    hooks = _listed(parsed.hook) or recorded
    n_blocks = len(saes[name].sae.inner.input_widths)
    if len(hooks) != n_blocks:
        raise HookedWhisperError(
            f"{name} is a crosscoder of {n_blocks} hook points, not {len(hooks)}: name them with --hook, separated by "
            "commas, in the order in which it was trained"
        )
    points = tuple(_canonical(shapes, hook) for hook in hooks)
    if recorded and not all(map(_is_point, [shapes] * n_blocks, recorded, points)):
        _refuse(parsed, f"{name} was trained at {', '.join(recorded)}, but --hook is {parsed.hook}")
    for point in points:
        _check_widths(saes, shapes, [point])
    return points


def _listed(hooks: str | None) -> list[str]:
    return [hook.strip() for hook in (hooks or "").split(",") if hook.strip()]


def _recorded_hook(
    parsed: argparse.Namespace,
    saes: Mapping[str, LoadedSAE],
    shapes: HookedWhisper,
    value: str | None,
    key: str,
    argument: str,
) -> str | None:
    from hooked_whisper.errors import HookedWhisperError

    recorded = {name: getattr(sae.metadata, key) for name, sae in saes.items()}
    if value:
        named = _canonical(shapes, value)
        for name, hook in recorded.items():
            if hook and not _is_point(shapes, hook, named):
                _refuse(parsed, f"{name} was trained at {hook}, but {argument} is {value}")
        return value
    if len(set(recorded.values())) > 1:
        listed = ", ".join(f"{name} {hook or 'none'}" for name, hook in recorded.items())
        raise HookedWhisperError(
            f"the folders name different hook points ({listed}): give SAEs of one point, or {argument}"
        )
    return next(iter(recorded.values())) or None


def _is_point(shapes: HookedWhisper, hook: str, name: str) -> bool:
    """Whether a hook's name or alias is that of the point with the canonical name ``name``."""
    from hooked_whisper.errors import UnknownHookError

    try:
        return shapes.hook_names(hook) == [name]
    except UnknownHookError:
        return False


def _canonical(shapes: HookedWhisper, name: str) -> str:
    from hooked_whisper.errors import HookedWhisperError

    names = shapes.hook_names(name)
    if len(names) != 1:
        raise HookedWhisperError(f"{name!r} matches {len(names)} hook points: name one")
    return names[0]


def _check_widths(saes: Mapping[str, LoadedSAE], shapes: HookedWhisper, hooks: Sequence[str]) -> None:
    from hooked_whisper.errors import ShapeError
    from sae_lens_audio.activations.options import CollectOptions
    from sae_lens_audio.activations.reading import RowReader

    widths = RowReader(shapes, list(dict.fromkeys(hooks)), CollectOptions()).widths
    for name, loaded in saes.items():
        config = getattr(loaded.sae, "config", None)
        expected = (getattr(loaded.sae, "d_in", None), getattr(config, "d_out", None))
        for width, hook, actual in zip(expected, hooks, (widths[0], widths[-1]), strict=False):
            if width is not None and width != actual:
                raise ShapeError(
                    f"{name} takes vectors of {width}, but {hook} of {shapes.cfg.name} has {actual}: give the hook "
                    "point and the model it was trained on"
                )


def _refuse(parsed: argparse.Namespace, contradiction: str) -> None:
    """Raise ``HookedWhisperError``, or with ``--allow-mismatch`` log a warning."""
    from hooked_whisper.errors import HookedWhisperError

    if not parsed.allow_mismatch:
        raise HookedWhisperError(f"{contradiction}: omit the argument to use what the SAE records, or --allow-mismatch")
    log.warning("%s: read the scores as those of an SAE outside the setting of its training", contradiction)

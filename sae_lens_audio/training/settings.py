"""The TOML file of a training run: activations, dictionary, training, run; nothing unknown is passed over."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from hooked_whisper._support.storage import Place, as_path
from hooked_whisper.cli.model_arguments import MOST_THREADS
from hooked_whisper.errors import HookedWhisperError, closest
from sae_lens_audio.architectures import ARCHITECTURES, SAE, Crosscoder, Transcoder
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training.config import TrainingConfig
from sae_lens_audio.training.log import WRITERS


@dataclass(frozen=True)
class ActivationSettings:
    """``[activations]``: a store, or a model and recordings to harvest from while training.

    hook: what the dictionary reads; hook_out: what a transcoder predicts; hooks: those of a crosscoder.
    store: folder or URL of ``sae-lens-audio collect``.
    held_out: share of the recordings, by speaker, that scores are taken on.
    shards_together: shards mixed in memory.
    model, audio, layout, speaker_folders, sentences, speakers, corpus_seed: without a store; as the command has them.
    recordings_per_block, dtype, padding, margin, batch: of harvesting while training.
    """

    hook: str = ""
    hook_out: str = ""
    hooks: tuple[str, ...] = ()
    store: str = ""
    held_out: float | int = 0.1
    shards_together: int = 8
    model: str = ""
    audio: str = ""
    layout: str = "auto"
    speaker_folders: bool = False
    sentences: int = 2000
    speakers: str = "train"
    corpus_seed: int = 0
    recordings_per_block: int = 512
    dtype: str = "float32"
    padding: str = "drop"
    margin: int = 0
    batch: int = 8

    @property
    def names(self) -> tuple[str, ...]:
        return self.hooks or tuple(name for name in (self.hook, self.hook_out) if name)


@dataclass(frozen=True)
class RunSettings:
    """``[run]``: where, and how it tells of itself; nothing here changes the numbers, but for device and threads.

    log: ``"tensorboard"``, ``"wandb"``, beside ``metrics.jsonl``.
    """

    folder: str = "runs/dictionary"
    device: str = ""
    threads: int = 0
    log: tuple[str, ...] = ()
    log_every: int = 50
    checkpoint_s: float | int = 120.0


@dataclass(frozen=True)
class Settings:
    """A whole file. ``dictionary``: architecture, seed and what its configuration takes but ``d_in``."""

    activations: ActivationSettings
    dictionary: Mapping[str, Any]
    training: TrainingConfig
    run: RunSettings

    def make_dictionary(self, widths: tuple[int, ...]) -> SAE:
        """Fresh, for activations of these widths.

        Raises:
            TrainingError: an unknown architecture, unknown or unfit values, or another number of hook points.
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.dictionary.items()}
        cls, seed = ARCHITECTURES[values.pop("architecture")], values.pop("seed", 0)
        known = {f.name for f in fields(cls.config_class)} - {"d_in"}
        _no_others("dictionary", values, known)
        if "d_sae" not in values:
            raise TrainingError("[dictionary] needs d_sae, the number of features")
        values["d_in"] = widths[0]
        if issubclass(cls, Transcoder):
            values.setdefault("d_out", widths[-1])
        if issubclass(cls, Crosscoder):
            values.setdefault("n_blocks", len(widths))
        try:
            return cls(cls.config_class(**values), seed)
        except (HookedWhisperError, TypeError) as error:
            raise TrainingError(f"[dictionary] {error}") from error


def read_settings(path: Place) -> Settings:
    """Raises :class:`TrainingError` that names the file, the section and the key."""
    path = as_path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"there is no settings file {path}: give the path of a .toml file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TrainingError(f"{path} is not readable TOML: {error}") from error
    try:
        return parse_settings(data)
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from error


def parse_settings(data: Mapping[str, Any]) -> Settings:
    """What :func:`read_settings` does with a file's content."""
    _no_others("", data, {"activations", "dictionary", "training", "run"})
    for section in ("activations", "dictionary", "training"):
        if not isinstance(data.get(section), Mapping):
            raise TrainingError(f"there is no section [{section}]")
    activations = _section(ActivationSettings, "activations", data["activations"])
    dictionary, run = dict(data["dictionary"]), _section(RunSettings, "run", data.get("run", {}))
    name = str(dictionary.get("architecture"))
    if name not in ARCHITECTURES:
        near = closest(name, ARCHITECTURES)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TrainingError(f"[dictionary] architecture is one of {', '.join(ARCHITECTURES)}, not {name!r}{hint}")
    _check_hooks(activations, ARCHITECTURES[name])
    if bool(activations.store) == bool(activations.model):
        raise TrainingError(
            "[activations] needs store (a folder of collected activations) or model (to collect from while training)"
        )
    if not 0 <= run.threads <= MOST_THREADS:
        raise TrainingError(f"[run] threads is 0 (PyTorch's choice) to {MOST_THREADS}, not {run.threads}")
    unknown = [writer for writer in run.log if writer not in WRITERS]
    if unknown:
        raise TrainingError(f"[run] log has {', '.join(WRITERS)}, not {unknown[0]!r}")
    return Settings(activations, dictionary, _section(TrainingConfig, "training", data["training"]), run)


def _check_hooks(activations: ActivationSettings, cls: type[SAE]) -> None:
    if issubclass(cls, Crosscoder):
        wanted, good = "hooks, a list of two or more", len(activations.hooks) > 1 and not activations.hook
    elif issubclass(cls, Transcoder):
        wanted, good = "hook and hook_out", bool(activations.hook and activations.hook_out and not activations.hooks)
    else:
        wanted, good = "hook", bool(activations.hook and not activations.hook_out and not activations.hooks)
    if not good:
        raise TrainingError(f"[activations] of a {cls.architecture} dictionary has {wanted}, and no other hook points")


def _section(cls: type[Any], name: str, data: object) -> Any:
    if not isinstance(data, Mapping):
        raise TrainingError(f"[{name}] must be a section, not {data!r}")
    known = {f.name: f for f in fields(cls)}
    _no_others(name, data, set(known))
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in data]
    if missing:
        raise TrainingError(f"[{name}] needs {missing[0]}")
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    for key, value in values.items():
        default = known[key].default
        if default is not MISSING and not _alike(value, default):
            kind = "text" if isinstance(default, str) else type(default).__name__
            raise TrainingError(f"[{name}] {key} must be {kind}, as {default!r} is, not {value!r}")
    return cls(**values)


def _alike(value: object, default: object) -> bool:
    if isinstance(default, float) and not isinstance(value, bool):
        return isinstance(value, (int, float))
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(isinstance(one, str) for one in value)
    return type(value) is type(default)


def _no_others(section: str, data: Mapping[str, Any], known: set[str]) -> None:
    for key in data:
        if key not in known:
            near = closest(key, known)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise TrainingError(f"{f'[{section}] has' if section else 'there is'} no {key!r}: {hint}")

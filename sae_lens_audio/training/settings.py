"""The TOML file of a training run: sections activations, sae, training and run. Unknown keys are errors."""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from hooked_whisper._support.renamed import RenamedWarning, renamed_method, renamed_property
from hooked_whisper._support.storage import Place, as_path
from hooked_whisper.cli.model_arguments import MOST_THREADS
from hooked_whisper.errors import HookedWhisperError, closest
from sae_lens_audio.architectures import ARCHITECTURES, SAE
from sae_lens_audio.errors import TrainingError
from sae_lens_audio.training.config import RENAMED, TrainingConfig
from sae_lens_audio.training.log import WRITERS


@dataclass(frozen=True)
class ActivationSettings:
    """``[activations]``: a store, or a model and recordings to stream activations from.

    hook: the hook point that the SAE reads. hook_out: the one a transcoder predicts. hooks: those of a crosscoder.
    store: folder or URL that ``sae-lens-audio collect`` wrote.
    held_out: share of the recordings, by speaker, to compute scores on.
    shards_together: shards mixed in memory.
    model, audio, layout, speaker_folders, sentences, speakers, corpus_seed: without a store; as for the command.
    recordings_per_chunk, dtype, padding, margin, batch: of streamed activations.
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
    recordings_per_chunk: int = 512
    dtype: str = "float32"
    padding: str = "drop"
    margin: int = 0
    batch: int = 8

    @property
    def names(self) -> tuple[str, ...]:
        return self.hooks or tuple(name for name in (self.hook, self.hook_out) if name)


@dataclass(frozen=True)
class RunSettings:
    """``[run]``: output folder and logging. Only ``device`` and ``threads`` can change results.

    log: ``"tensorboard"``, ``"wandb"``, beside ``metrics.jsonl``.
    """

    folder: str = "runs/sae"
    device: str = ""
    threads: int = 0
    log: tuple[str, ...] = ()
    log_every: int = 50
    checkpoint_s: float | int = 120.0


@dataclass(frozen=True)
class Settings:
    """A whole file. ``sae``: architecture, seed and the fields of its configuration except ``d_in``."""

    activations: ActivationSettings
    sae: Mapping[str, Any]
    training: TrainingConfig
    run: RunSettings

    dictionary = renamed_property("dictionary", "sae")
    make_dictionary = renamed_method("make_dictionary", "make_sae")

    def make_sae(self, widths: tuple[int, ...]) -> SAE:
        """Make an untrained SAE for activations of these widths.

        Raises:
            TrainingError: an unknown key, or a value that the configuration refuses.
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.sae.items()}
        cls, seed = ARCHITECTURES[values.pop("architecture")], values.pop("seed", 0)
        known = {f.name for f in fields(cls.config_class)} - {"d_in"}
        _check_keys("sae", values, known)
        if "d_sae" not in values:
            raise TrainingError("[sae] needs d_sae, the number of features")
        try:
            return cls(cls.config_class(**{**cls.sizes_for(widths), **values}), seed)
        except (HookedWhisperError, TypeError) as error:
            raise TrainingError(f"[sae] {error}") from error


def read_settings(path: Place) -> Settings:
    """Read a settings file.

    Raises:
        TrainingError: the file cannot be read, or a setting is wrong; the message names the file, section and key.
    """
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
    """Parse the content of a settings file; see :func:`read_settings`."""
    data = _renamed("", data, {"dictionary": "sae"})
    _check_keys("", data, {"activations", "sae", "training", "run"})
    for section in ("activations", "sae", "training"):
        if not isinstance(data.get(section), Mapping):
            raise TrainingError(f"there is no section [{section}]")
    activations = _section(
        ActivationSettings,
        "activations",
        _renamed("activations", data["activations"], {"recordings_per_block": "recordings_per_chunk"}),
    )
    sae, run = dict(data["sae"]), _section(RunSettings, "run", data.get("run", {}))
    training = _section(TrainingConfig, "training", _renamed("training", data["training"], RENAMED))
    name = str(sae.get("architecture"))
    if name not in ARCHITECTURES:
        near = closest(name, ARCHITECTURES)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TrainingError(f"[sae] architecture is one of {', '.join(ARCHITECTURES)}, not {name!r}{hint}")
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
    return Settings(activations, sae, training, run)


def _check_hooks(activations: ActivationSettings, cls: type[SAE]) -> None:
    hook, hook_out, hooks = bool(activations.hook), bool(activations.hook_out), activations.hooks
    if cls.reads_several_hooks:
        expected, good = "hooks, a list of two or more", len(hooks) > 1 and not hook
    elif cls.predicts_other_hook:
        expected, good = "hook and hook_out", hook and hook_out and not hooks
    else:
        expected, good = "hook", hook and not hook_out and not hooks
    if not good:
        raise TrainingError(f"[activations] of a {cls.architecture} SAE has {expected}, and no other hook points")


def _section(cls: type[Any], name: str, data: object) -> Any:
    if not isinstance(data, Mapping):
        raise TrainingError(f"[{name}] must be a section, not {data!r}")
    known = {f.name: f for f in fields(cls)}
    _check_keys(name, data, set(known))
    missing = [f.name for f in known.values() if f.default is MISSING and f.name not in data]
    if missing:
        raise TrainingError(f"[{name}] needs {missing[0]}")
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
    for key, value in values.items():
        default = known[key].default
        if default is not MISSING and not _same_type(value, default):
            kind = "text" if isinstance(default, str) else type(default).__name__
            raise TrainingError(f"[{name}] {key} must be {kind}, as {default!r} is, not {value!r}")
    return cls(**values)


def _same_type(value: object, default: object) -> bool:
    if isinstance(default, float) and not isinstance(value, bool):
        return isinstance(value, (int, float))
    if isinstance(default, tuple):
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    return type(value) is type(default)


def _renamed(section: str, data: Any, names: Mapping[str, str]) -> Any:
    """Accept the keys of version 0.1 under their new names, with a warning."""
    if not isinstance(data, Mapping):
        return data
    for old, new in names.items():
        if old in data and new not in data:
            key, now = (f"[{section}] {old}", new) if section else (f"section [{old}]", f"[{new}]")
            warnings.warn(f"{key} is now called {now}", RenamedWarning, stacklevel=2)
            data = {new if key == old else key: value for key, value in data.items()}
    return data


_SAELENS = {  # names that SAELens or other libraries have for our keys
    "learning_rate": "lr",
    "batch_size": "batch",
    "train_batch_size_tokens": "batch",
    "training_tokens": "steps",
    "lr_warm_up_steps": "warmup_steps",
    "lr_decay_steps": "decay_steps",
    "l1_warm_up_steps": "sparsity_warmup_steps",
    "dead_feature_window": "dead_after",
}


def _check_keys(section: str, data: Mapping[str, Any], known: set[str]) -> None:
    for key in data:
        if key not in known:
            near = [_SAELENS[key]] if _SAELENS.get(key) in known else closest(key, known)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known))}"
            raise TrainingError(f"{f'[{section}] has' if section else 'there is'} no {key!r}: {hint}")

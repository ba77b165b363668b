"""Metadata of an SAE: the hook point and model it belongs to, and its training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from hooked_whisper.errors import CheckpointError

# SAELens' name -> ours
_SAELENS_NAMES = MappingProxyType(
    {"hook_name": "hook_name", "hook_name_out": "hook_name_out", "model_name": "checkpoint"}
)
BLOCK = "sae_lens_audio"


@dataclass(frozen=True)
class Metadata:
    """Unknown values are ``None``.

    hook_name: hook point whose activations are encoded. hook_name_out: the one that a transcoder predicts.
    checkpoint: name of the Whisper model. checkpoint_sha256: digest of its weights.
    sample_rate: of the audio, in Hz. corpus, corpus_sha256: source of the activations.
    padding: how padding positions were treated (``"dropped"``, ``"kept"``, ``"dropped, margin 2"``).
    extra: other JSON values of the file, which are written back.
    """

    hook_name: str | None = None
    hook_name_out: str | None = None
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    sample_rate: int | None = None
    corpus: str | None = None
    corpus_sha256: str | None = None
    padding: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


_OURS = tuple(f.name for f in fields(Metadata) if f.name != "extra" and f.name not in _SAELENS_NAMES.values())


def to_saelens(metadata: Metadata) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the ``metadata`` object of a cfg.json without our block, and the values for the block."""
    values = asdict(metadata)
    shared = {theirs: values[ours] for theirs, ours in _SAELENS_NAMES.items() if values[ours] is not None}
    return dict(metadata.extra) | shared, {name: values[name] for name in _OURS if values[name] is not None}


def from_saelens(data: Mapping[str, Any], source: object) -> Metadata:
    """Undo :func:`to_saelens`. Unknown keys go to ``extra``.

    Raises:
        CheckpointError: a value has the wrong type.
    """
    block = data.get(BLOCK)
    known = {ours: data.get(theirs) for theirs, ours in _SAELENS_NAMES.items()}
    known |= {name: block.get(name) for name in _OURS} if isinstance(block, Mapping) else {}
    for name, value in known.items():
        wanted = int if name == "sample_rate" else str
        if value is not None and not isinstance(value, wanted):
            raise CheckpointError(f"{source}: metadata {name!r} must be {wanted.__name__}, not {value!r}: correct it")
    extra = {key: value for key, value in data.items() if key not in _SAELENS_NAMES and key != BLOCK}
    return Metadata(**known, extra=extra)

"""The metadata of an SAE in its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any

from hooked_whisper.errors import CheckpointError
from sae_lens_audio.architectures.metadata import Metadata

# SAELens' name -> ours
_SAELENS_NAMES = MappingProxyType(
    {"hook_name": "hook_name", "hook_name_out": "hook_name_out", "model_name": "checkpoint"}
)
BLOCK = "sae_lens_audio"


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

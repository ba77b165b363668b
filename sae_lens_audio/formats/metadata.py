"""What a file says about where a dictionary belongs and what it was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from hooked_whisper.errors import CheckpointError

# theirs -> ours: SAELens has names for these already
_SAELENS_NAMES = MappingProxyType(
    {"hook_name": "hook_name", "hook_name_out": "hook_name_out", "model_name": "checkpoint"}
)
BLOCK = "sae_lens_audio"


@dataclass(frozen=True)
class Metadata:
    """Unknown things are None.

    hook_name: hook point whose activations are encoded; hook_name_out: the one a transcoder predicts.
    checkpoint: name of the Whisper model; checkpoint_sha256: digest of its weights.
    sample_rate: Hz of the audio; corpus, corpus_sha256: what the activations were taken from.
    padding: which positions of the window were left out, in words (``"dropped"``, ``"kept"``, ``"dropped, margin 2"``).
    extra: what else the file says, JSON values; kept and written again.
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
    """The ``metadata`` object of a cfg.json without our block, and what of ours goes into the block."""
    values = asdict(metadata)
    shared = {theirs: values[ours] for theirs, ours in _SAELENS_NAMES.items() if values[ours] is not None}
    return dict(metadata.extra) | shared, {name: values[name] for name in _OURS if values[name] is not None}


def from_saelens(data: Mapping[str, Any], source: object) -> Metadata:
    """The reverse; keys nobody knows go to ``extra``.

    Raises:
        CheckpointError: a value of another type than ours have.
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

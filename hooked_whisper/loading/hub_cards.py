"""Cards (``README.md``) of repositories on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from hooked_whisper.config import ALIASES, RELEASED
from hooked_whisper.model import WhisperCore

PIP_NAME = "hooked-whisper"


def card(front: Mapping[str, Any], body: str) -> bytes:
    """Return a card: YAML front matter, without empty values, and Markdown."""
    from huggingface_hub.repocard_data import CardData

    values = {key: value for key, value in front.items() if value not in (None, [], "")}
    return f"---\n{CardData(**values).to_yaml()}\n---\n\n{body.strip()}\n".encode()


def package_version() -> str:
    """Return the installed version of the package, or an empty string in a checkout that is not installed."""
    try:
        return metadata.version(PIP_NAME)
    except metadata.PackageNotFoundError:
        return ""


def markdown_table(rows: Mapping[str, Any]) -> str:
    """Return a table of names and values, without the values that are ``None``."""
    lines = [f"| {name} | {_cell(value)} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def model_card(model: WhisperCore, metadata_of: Mapping[str, str], repo_id: str, license: str | None) -> bytes:
    """Return the card of a model in transformers' format."""
    name = ALIASES.get(model.cfg.name, model.cfg.name)
    encoder, decoder = model.cfg.encoder, model.cfg.decoder
    base = f"openai/whisper-{name}" if name in RELEASED else None
    processor = base or "the processor of the released model with this vocabulary"
    facts = {
        "name": model.cfg.name,
        "blocks": f"{encoder.n_layers} in the encoder, {decoder.n_layers} in the decoder",
        "width": encoder.d_model,
        "heads": encoder.n_heads,
        "vocabulary": f"{decoder.n_vocab} tokens",
        "mel bins": encoder.n_mels,
        **metadata_of,
    }
    front = {
        "license": license,
        "library_name": "transformers",
        "pipeline_tag": "automatic-speech-recognition",
        "base_model": base,
        "tags": ["whisper", "hooked_whisper", "interpretability"],
    }
    body = f"""# {repo_id.partition("/")[2]}

A Whisper model in the format of transformers, uploaded with hooked_whisper {package_version()}.

```python
from hooked_whisper import HookedWhisper

model = HookedWhisper.from_pretrained("{repo_id}")
```

`WhisperForConditionalGeneration.from_pretrained("{repo_id}")` of transformers reads it too. The repository has no
tokenizer and no feature extractor: use those of {processor}.

{markdown_table(facts)}
"""
    return card(front, body)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")

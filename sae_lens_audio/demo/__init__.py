"""Small SAEs of the demo model, trained on its synthetic corpus, for tutorials and findings.

Each folder is a SAELens folder in half precision. Its metadata and the recipe beside it document the training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hooked_whisper.errors import CheckpointError, closest
from sae_lens_audio.formats import LoadedSAE, load_sae

FOLDER = Path(__file__).parent
RECIPES = FOLDER / "recipes"


def demo_names() -> list[str]:
    """Return the names of the packaged SAEs, such as ``"topk-2"``: architecture and encoder block."""
    return sorted(path.parent.name for path in FOLDER.glob("*/cfg.json"))


def load_demo(name: str) -> LoadedSAE:
    """Load a packaged SAE of the demo model, in float32.

    Raises:
        CheckpointError: no such SAE; the message has similar names.
    """
    names = demo_names()
    if name not in names:
        near = closest(name, names)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise CheckpointError(f"no packaged SAE {name!r}: there are {', '.join(names) or 'none'}{hint}")
    loaded = load_sae(FOLDER / name)
    return replace(loaded, sae=loaded.sae.float())

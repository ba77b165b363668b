"""Find an SAE by release and id: a repository on the hub, a local folder, or the packaged SAEs."""

from __future__ import annotations

import re
from pathlib import Path

from hooked_whisper.errors import CheckpointError, closest
from sae_lens_audio.demo import demo_names, load_demo
from sae_lens_audio.formats import LoadedSAE, from_pretrained, load_sae

DEMO = "demo"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_release(release: str, sae_id: str = "", revision: str | None = None) -> LoadedSAE:
    """Load the SAE ``sae_id`` of a release.

    Args:
        release: ``"org/name"`` on the Hugging Face hub, a local folder (which takes precedence), or ``"demo"``.
        sae_id: folder of the SAE in the release; empty if the release itself is the SAE.

    Raises:
        CheckpointError: there is no such release or SAE; the message lists those that exist.
    """
    if Path(release).expanduser().is_dir() and release != DEMO:
        return load_sae(Path(release).expanduser() / sae_id)
    if release == DEMO:
        if not sae_id:
            raise CheckpointError(f"release 'demo' needs a sae_id: {', '.join(demo_names())}")
        return load_demo(sae_id)
    if _HUB_ID.fullmatch(release):
        return from_pretrained(release, sae_id, revision)
    hint = "Did you mean 'demo'? " if closest(release, [DEMO]) else ""
    raise CheckpointError(
        f"{release!r} is neither a repository of the Hugging Face hub (org/name) nor a local folder nor 'demo'. {hint}"
        "The short names in SAELens' own directory are not known here: give the repository that the name stands for"
    )

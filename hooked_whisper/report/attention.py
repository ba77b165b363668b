"""Pages of the attention viewer beside the page of findings, for findings about attention heads."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hooked_whisper.corpora import Clip
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import Stack
from hooked_whisper.viewer import view_attention

log = logging.getLogger(__name__)

HEADS_OF: dict[str, Stack] = {
    "F1": "encoder",
    "F2": "encoder",
    "F3": "encoder",
    "F12": "cross",
    "L3": "cross",
    "W2": "cross",
}
"""The stack whose heads a finding is about."""


def write_attention_pages(
    folder: Path, findings: Sequence[Finding], model: HookedWhisper, clips: Sequence[Clip], language: str = "en"
) -> dict[str, str]:
    """Write ``attention-<stack>.html`` for every stack that a finding is about, on the first clip with a text.

    Returns:
        id of a finding -> name of its page; empty without clips. A clip that cannot be shown is logged.
    """
    clip = next((clip for clip in clips if clip.text.strip()), None)
    pages: dict[str, str] = {}
    for finding in findings:
        stack = HEADS_OF.get(finding.id)
        if clip is None or stack is None:
            continue
        name = f"attention-{stack}.html"
        if name not in pages.values():
            try:
                view_attention(model, clip, stack=stack, language=language).save(folder / name)
            except HookedWhisperError as error:
                log.warning("no page about the attention of %s in %s: %s", stack, clip.id, error)
                continue
        pages[finding.id] = name
    return pages

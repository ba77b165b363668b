"""Pages that experiments write beside the page of findings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.finding import Finding
from hooked_whisper.findings.core.records import PageLink
from hooked_whisper.findings.registry import REGISTRY

log = logging.getLogger(__name__)
_WITHOUT = ("not testable", "error")


def write_linked_pages(folder: Path, findings: Sequence[Finding], context: Context) -> dict[str, tuple[PageLink, ...]]:
    """Write the pages of every finding with numbers.

    Returns:
        id of a finding -> links to its pages. Pages that cannot be written are logged.
    """
    pages: dict[str, tuple[PageLink, ...]] = {}
    for finding in findings:
        experiment = REGISTRY.get(finding.id)
        if experiment is None or finding.status in _WITHOUT:
            continue
        try:
            links = experiment.write_pages(finding, context, folder)
        except HookedWhisperError as error:
            log.warning("no pages of %s: %s", finding.id, error)
            continue
        if links:
            pages[finding.id] = links
    return pages

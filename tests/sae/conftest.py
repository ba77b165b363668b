"""Tests with the real sae-lens run only in its environment (``make test-peers``)."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("sae_lens") else ["*_with_sae_lens.py"]

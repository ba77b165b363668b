"""Names of our parameters in openai-whisper. Imports neither library, so that measured processes stay small."""

from __future__ import annotations

import re

_RENAMED = (
    (r"\.ln1\.", ".attn_ln."),
    (r"\.ln2\.", ".mlp_ln."),
    (r"\.ln_cross\.", ".cross_attn_ln."),
    (r"\.mlp\.up\.", ".mlp.0."),
    (r"\.mlp\.down\.", ".mlp.2."),
    (r"^decoder\.ln_final\.", "decoder.ln."),
    (r"(conv[12])\.conv\.", r"\1."),
)


def openai_name(name: str) -> str:
    """Return openai-whisper's name of one of our parameters."""
    for pattern, other in _RENAMED:
        name = re.sub(pattern, other, name)
    return name

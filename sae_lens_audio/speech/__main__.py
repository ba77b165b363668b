"""``python -m sae_lens_audio.speech FOLDER``: synthesize speech to train SAEs on.

Writes passages of about 27 s by Kokoro's training voices and flite, half of them with room sound or noise, as a corpus
folder for ``sae-lens-audio collect --audio FOLDER``. Can be interrupted and resumed. Kokoro takes about as long as it
speaks, per process; flite takes almost no time.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hooked_whisper.cli.model_arguments import not_negative, positive
from hooked_whisper.errors import HookedWhisperError
from sae_lens_audio.speech.build import build_training_speech
from sae_lens_audio.speech.plan import plan_passages

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Return 1 and print the message if something is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m sae_lens_audio.speech",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="output folder")
    parser.add_argument("--kokoro", type=float, default=1.5, metavar="HOURS", help="neural voices (default: 1.5)")
    parser.add_argument("--flite", type=float, default=3.5, metavar="HOURS", help="statistical voices (default: 3.5)")
    parser.add_argument("--voices", type=Path, metavar="DIR", help="Kokoro's voices (default: FOLDER/voices)")
    parser.add_argument("--seed", type=not_negative, default=0, metavar="S")
    parser.add_argument("--processes", type=positive, default=1, metavar="N")
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        passages = plan_passages({"kokoro": parsed.kokoro, "flite": parsed.flite}, parsed.seed)
        new = build_training_speech(passages, parsed.folder, voices=parsed.voices, processes=parsed.processes)
    except (HookedWhisperError, RuntimeError) as error:
        log.error("error: %s", error)
        return 1
    log.info("%d passages in %s, %d of them new", len(passages), parsed.folder, new)
    return 0


if __name__ == "__main__":
    sys.exit(main())

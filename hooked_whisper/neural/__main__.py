"""``python -m hooked_whisper.neural build|choose|check|pack|compare``: rebuild the packaged speech step by step."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from hooked_whisper._support.storage import write_atomic
from hooked_whisper.corpora.packaged import FOLDER
from hooked_whisper.errors import HookedWhisperError

log = logging.getLogger(__name__)

DESCRIPTION = """Rebuild the packaged speech. Run the steps in this order. Each can be interrupted and resumed.

  build   synthesize the recordings of texts/*.tsv and choices.tsv (about 15 minutes on two cores)
  choose  select recordings by the transcripts of tiny.en and base, and write choices.tsv (not needed for a rebuild)
  check   measure word error rates, times against forced alignment, and the codec; write check.json
  pack    encode everything into the packaged folder, with metadata
  compare check that a build equals the packaged speech within the stated tolerance
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Return 1 and print the message if this library raises an error."""
    parser = argparse.ArgumentParser(
        prog="python -m hooked_whisper.neural",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("step", choices=("build", "choose", "check", "pack", "compare"))
    parser.add_argument("folder", type=Path, help="folder of the build")
    parser.add_argument("--voices", type=Path, help="folder of Kokoro's voices (default: FOLDER/voices)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="processes for synthesis (default: 1)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="packaged folder, for pack and compare")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        _run(parser.parse_args(arguments))
    except (HookedWhisperError, RuntimeError) as error:
        log.error("error: %s", error)
        return 1
    return 0


def _run(parsed: argparse.Namespace) -> None:
    from hooked_whisper.neural.plan import make_plan, read_choices

    folder: Path = parsed.folder
    folder.mkdir(parents=True, exist_ok=True)
    if parsed.step in ("build", "choose"):
        from hooked_whisper.neural.build import build
        from hooked_whisper.neural.voices import fetch_voices

        voices = fetch_voices(parsed.voices or folder / "voices")
        if parsed.step == "build":
            log.info("%d recordings synthesized", build(make_plan(), folder, voices, parsed.processes))
            return
        from hooked_whisper.neural.choose import choose, write_choices

        choices = choose(folder, voices, processes=parsed.processes)
        write_choices(choices)
        dropped = sum(not choice.voice for choice in choices.values())
        log.info("%d recordings by another voice, %d dropped", len(choices) - dropped, dropped)
    elif parsed.step == "check":
        from hooked_whisper.neural.measure import check
        from hooked_whisper.neural.pack import CHECK

        measured = check(folder, read_choices())
        write_atomic(folder / CHECK, json.dumps(measured, ensure_ascii=False, indent=1).encode())
        for model, tables in measured["wer"].items():
            english = tables["english"]
            log.info("%s: WER %s %% of %d English words", model, english["wer"], english["words"])
    elif parsed.step == "compare":
        from hooked_whisper.neural.compare import compare

        comparison = compare(folder, parsed.out)
        log.info("%s: %s", "within the tolerance" if comparison.passes else "NOT within the tolerance", comparison)
    else:
        from hooked_whisper.neural.pack import pack

        metadata = pack(folder, parsed.out, read_choices())
        log.info("%(recordings)d recordings, %(minutes)s minutes, %(audio_bytes)d bytes", metadata)


if __name__ == "__main__":
    sys.exit(main())

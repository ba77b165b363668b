"""``python -m sae_lens_audio.speech FOLDER``: make a corpus of speech to train SAEs on.

Writes passages of about 27 s by Kokoro's training voices and flite, half of them with room sound or noise, as a corpus
folder for ``sae-lens-audio collect --audio FOLDER``. Can be interrupted and resumed. Kokoro takes about as long as it
speaks, per process; flite takes almost no time. ``--prompts all`` adds two hours of human speech (telephone prompts in
five languages, which Debian packages), ``--packaged`` the packaged neural speech.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hooked_whisper.cli.model_arguments import not_negative, positive
from hooked_whisper.cli.running import exit_code_of
from hooked_whisper.errors import ConfigError
from sae_lens_audio.speech.build import build_training_speech
from sae_lens_audio.speech.plan import Passage, plan_passages
from sae_lens_audio.speech.prompts import PROMPT_LANGUAGES, fetch_prompts, find_prompts, open_prompts, prompt_packages
from sae_lens_audio.speech.recorded import RecordedPassage, join_recordings, packaged_passages

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code, 2 if something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m sae_lens_audio.speech",
        description=(__doc__ or "").replace("``", "`"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="output folder")
    parser.add_argument(
        "--kokoro", type=float, default=1.5, metavar="HOURS", help="hours of neural voices (default: 1.5)"
    )
    parser.add_argument(
        "--flite", type=float, default=3.5, metavar="HOURS", help="hours of statistical voices (default: 3.5)"
    )
    parser.add_argument(
        "--prompts",
        nargs="+",
        choices=(*PROMPT_LANGUAGES, "all"),
        default=[],
        metavar="LANGUAGE",
        help="add the human prompts of these languages: en, es, fr, it, ru or all",
    )
    parser.add_argument(
        "--prompts-from", type=Path, metavar="DIR", help="their Debian packages (default: apt-get downloads them)"
    )
    parser.add_argument("--packaged", action="store_true", help="add the packaged speech of the training voices")
    parser.add_argument("--voices", type=Path, metavar="DIR", help="Kokoro's voices (default: FOLDER/voices)")
    parser.add_argument(
        "--seed", type=not_negative, default=0, metavar="S", help="seed of sentences, voices and sounds (0)"
    )
    parser.add_argument(
        "--processes", type=positive, default=1, metavar="N", help="processes that synthesize; 0.6 GB each (1)"
    )
    parsed = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if parsed.prompts_from is not None and not parsed.prompts:
        parser.error("--prompts-from has no effect without --prompts: add --prompts all, or omit it")
    return exit_code_of(parser.prog, lambda: _run(parsed))


def _run(parsed: argparse.Namespace) -> None:
    planned = plan_passages({"kokoro": parsed.kokoro, "flite": parsed.flite}, parsed.seed)
    with TemporaryDirectory(prefix="prompts-") as unpacked:
        recorded = packaged_passages(parsed.seed) if parsed.packaged else []
        if parsed.prompts:
            recorded += _prompts(parsed, Path(unpacked))
        passages: list[Passage | RecordedPassage] = [*planned, *recorded]
        if not passages:
            raise ConfigError("no speech to make: give --kokoro or --flite hours, --prompts or --packaged")
        new = build_training_speech(passages, parsed.folder, voices=parsed.voices, processes=parsed.processes)
    log.info("%d passages in %s, %d of them new", len(passages), parsed.folder, new)


def _prompts(parsed: argparse.Namespace, unpacked: Path) -> list[RecordedPassage]:
    packages = prompt_packages(PROMPT_LANGUAGES if "all" in parsed.prompts else parsed.prompts)
    if parsed.prompts_from is None:
        files = fetch_prompts(packages, parsed.folder / "packages")
    else:
        files = find_prompts(packages, parsed.prompts_from)
    return join_recordings(open_prompts(files, unpacked), "human", "human", parsed.seed)


if __name__ == "__main__":
    sys.exit(main())

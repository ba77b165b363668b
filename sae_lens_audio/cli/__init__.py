"""The command line ``sae-lens-audio``: one file per command."""

from sae_lens_audio.cli.parser import main

__all__ = ["main"]

"""The command line ``hooked-whisper``: one file per command."""

from hooked_whisper.cli.parser import main

__all__ = ["main"]

"""Findings about SAEs. The entry points of the package add them to those of ``hooked_whisper``."""

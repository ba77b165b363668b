"""Findings about SAEs. They join those of ``hooked_whisper`` through the entry points of the package."""

"""Pairs of clips for word-swap patching (W1), and its figures."""

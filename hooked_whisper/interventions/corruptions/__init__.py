"""Paired inputs for patching: a clean run and a corrupt one that differ in one known respect."""

"""Patching: activations of one run put into another, exactly, to first order, or along one path."""

"""Evaluation of dictionaries, every score beside neurons, principal and random directions."""

"""Phones and features: labels of positions, counts, selectivity, polyphony, top examples, automatic labels."""

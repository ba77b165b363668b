"""Speech, languages and other sounds: samples, probes and readings of the encoder."""

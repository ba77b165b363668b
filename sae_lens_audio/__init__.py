"""sae_lens_audio: sparse autoencoders on the activations of hooked_whisper (to come)."""

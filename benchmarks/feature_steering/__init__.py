"""Do transcripts follow SAE features? Erase and push the latents of a phone, with controls of the same norm."""

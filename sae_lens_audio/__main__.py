"""``python -m sae_lens_audio``: the same as ``sae-lens-audio``, for launchers that start modules."""

import sys

from sae_lens_audio.cli.parser import main

sys.exit(main())

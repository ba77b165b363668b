"""``python -m hooked_whisper``"""

import sys

from hooked_whisper.cli.parser import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m fvae``: the command line."""

import sys

from fvae.cli import main

if __name__ == "__main__":
    sys.exit(main())

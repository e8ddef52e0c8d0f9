"""The command `python -m tools.predict`."""

import sys

from tools.deploy.predict import main

if __name__ == "__main__":
    sys.exit(main())

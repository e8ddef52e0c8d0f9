"""The command `python -m tools.export`."""

import sys

from tools.deploy.labeller import silence

if __name__ == "__main__":
    with silence():
        from tools.deploy.export import main
    sys.exit(main())

import sys

from tools.sweep.sweep import main

if __name__ == "__main__":
    sys.exit(main())

import sys

from dev.bench import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m ganfuse``: the same as the command ``ganfuse``."""

from ganfuse.cli import main

if __name__ == "__main__":
    main()

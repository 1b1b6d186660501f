"""``python -m minisheep``."""

from minisheep.cli.main import main

if __name__ == "__main__":
    main()

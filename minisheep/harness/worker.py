"""``python -m minisheep.harness.worker``: `minisheep.worker` with the desk that measures tasks of the harness."""

from __future__ import annotations

from minisheep.harness.desk import HarnessDesk
from minisheep.worker import main

if __name__ == "__main__":
    main(HarnessDesk())

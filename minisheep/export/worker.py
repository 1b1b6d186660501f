"""``python -m minisheep.export.worker``: `minisheep.worker` with the desk that exports."""

from __future__ import annotations

from minisheep.export.desk import ExportDesk
from minisheep.worker import main

if __name__ == "__main__":
    main(ExportDesk())

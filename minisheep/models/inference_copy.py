"""A copy of a model in a format that the CPU multiplies fast, made once and kept beside the original in the cache.

Only for inference on a CPU, and never inside the loop: training and export go by the original.
"""

from __future__ import annotations

from pathlib import Path

from minisheep.machine.files import check_room, whole_file
from minisheep.models import cache
from minisheep.models.facts import parameter_count
from minisheep.models.gguf_header import read_header
from minisheep.models.quantise import FORMATS, quantise


def requantise(source: Path, output: Path, format: str = "q8_0") -> None:
    """Write `source` in a format of `quantise.FORMATS`, in small letters, to `output`, which appears whole or
    not at all.

    Imports llama_cpp: call it in a worker. Raises ModelFileError if `source` cannot be converted and DiskError if
    there is no space. About a second for 135M weights.
    """
    header = read_header(source)
    weight_bytes = FORMATS[format.upper()][1]
    needed = parameter_count(header) * weight_bytes + 2**26
    fix = "Free some space, or set MINISHEEP_CACHE to a folder on a larger disk."
    with cache.disk_errors("The copy for inference cannot be written"):
        check_room(output, needed, "The copy for inference needs", fix)
        output.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(output) as temporary:
            quantise(source, temporary, format.upper())

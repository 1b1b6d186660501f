"""Inference engines. Importing this package sets how long the threads of native code spin, see below."""

import os

# llama.cpp's threads meet at a barrier hundreds of times a token, and libgomp lets them spin there for milliseconds.
# With any other busy process on the machine, the spinning thread then holds the core that the awaited one needs:
# 13 tokens/s in place of 70 on two cores. libgomp reads this when it is loaded, so it stands before everything else.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

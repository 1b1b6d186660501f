"""``minisheep doctor``: whether this machine can do a run, found out by doing its parts in small.

What is looked at comes in two kinds. `machine`, `folders` and `packages` ask the system from the command's own process,
which stays light; `probes` run what is native or heavy (llama.cpp, torch, bitsandbytes, Unsloth, the hub) in child
processes with a time limit, so that a crash or a hang is an answer too. What comes back are plain facts; the `check_*`
modules turn facts into results and are pure.
"""

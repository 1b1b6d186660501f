"""``minisheep doctor``: finds out whether this machine can do a run, by doing its parts in small.

`machine_facts` and `packages` ask the system from the command's own process, which stays light. `probes` run what is
native or heavy (llama.cpp, torch, bitsandbytes, Unsloth, the hub) in child processes with a time limit, so that a crash
or a hang is a result too; `diagnosis` starts them. Both return plain facts, which `checks` turns into results.
"""

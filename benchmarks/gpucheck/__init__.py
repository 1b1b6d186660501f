"""``make gpu-check``: everything that needs a GPU, measured on a machine that has one.

`session` orders the parts. Each part ends in results of the doctor's kind: a missing part is named, skipped and
counted. `child` runs what holds a model, in its own process; `build`, `curves` and `page` are pure.
"""

"""``make gpu-check``: everything that needs a GPU, done and measured on the machine that has one.

`session` is the order of the parts; each ends in results of the doctor's kind, so that what is missing is named,
skipped and counted. `child` runs what holds a model, in processes of its own; `build`, `curves` and `page` are pure.
"""

"""Tasks of lm-evaluation-harness on minisheep's own engine: base and rounds side by side, paired item by item.

eval_run.py    the parent's part: starts a worker, reads what it stored, shows results
worker.py      loads the tasks, asks the model, and writes one file for each task and round
tasks.py       what is asked for, and the harness's tasks by name
engine_lm.py   the harness's interface of a model, on `engines.base.Engine`
scores.py      the harness's scores, item by item
code.py        runs programs that a model wrote, and replaces the package `evaluate`

The parent imports nothing here that imports lm_eval, and nothing ever unpickles a file of the harness.
"""

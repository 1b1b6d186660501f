"""Tasks of lm-evaluation-harness on minisheep's own engine: base and rounds side by side, paired item by item.

    session   in the parent: starts a worker, stores nothing itself, reads what was stored
    desk      in the worker: loads tasks, asks the model, writes one file for each task and round
    model     the harness's interface of a model, on `engines.base.Engine`

Nothing here runs in the parent that imports lm_eval, and no file of the harness is ever unpickled.
"""

"""``minisheep bench``: minisheep and its peers on the same work, in turns.

`measure` and `turns` are the pure part. The command's own process stays light: it plans (`plan`), starts one worker
for each part (`session`, `run`) and shows what comes back (`report`). A worker owns its models and is never busy at the
same time as another.
"""

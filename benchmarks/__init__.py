"""Benchmarks: minisheep and its peers do the same work in turns. ``python -m benchmarks`` in the project's folder.

This package is not part of the wheel. `measure` and `turns` are pure. The command's own process stays light: it plans
(`plan`), starts one worker for each part (`session`, `run`) and shows the rows that come back (`report`). A worker owns
its models, and only one works at a time. `gpucheck` does what needs a GPU.
"""

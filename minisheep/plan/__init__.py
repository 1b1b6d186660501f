"""What a run will take: memory for each phase, disk and time; and settings with which it fits.

`gpu_models` lists GPUs; `memory_parts` counts memory; `duration` counts work and time; `fit` makes plans and looks for
settings; `plan_table` words them. `room` knows the model and checks the GPU that is here; `calibration` measures on it.
"""

"""A round's training for another program: its data in the run's own template, and a configuration to train by.

job.py           what is trained: read from a run folder
batches.py       a batch over several GPUs
axolotl.py       Axolotl's files (pure)
llamafactory.py  LLaMA-Factory's files (pure)
readme.py        how to use them
write.py         the folder, whole or not at all
"""

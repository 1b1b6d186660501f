"""A trained round as files that other programs use, checked before they appear.

export_choice.py   which round, which folder, and what crosses to the worker
exporting.py       the parent's part: starts the worker, writes cards, names the folder
worker.py          makes the files and checks them
export_checks.py   what run and export are asked, and what must come out
ollama.py          Modelfiles, and chat templates made from the trained template
model_cards.py     cards for the hub, and the upload
handoff_files.py   a round's training as files for Axolotl and LLaMA-Factory
"""

"""A run as one HTML file and its Markdown twin, from the run folder alone.

gather.py               what a folder holds, whole or not
blocks.py               what a report is made of; every section is such blocks
origins.py summary.py findings.py advice.py outcome.py funnel.py spread.py training.py landscape.py watching.py
samples.py              one section each: decisions, no drawing
document.py             which sections, in which order
plots.py                figures as inline SVG (matplotlib, optional)
html.py markdown.py     blocks in the two forms; all escaping is there
write.py                the two files on disk
"""

"""A run as one HTML page and the same report in Markdown, made from the run folder alone.

gather.py           reads a run folder, whole or damaged
blocks.py           the parts of a report; each section returns some of them
findings.py         title, findings and advice
sections.py         metrics of the rounds, training, records to read
data_sections.py    data funnel, variety and judge, settings and hashes
distributions.py    histograms of scores and lengths, map of the data
plots.py            pictures as inline SVG (matplotlib, optional)
write.py            the HTML and Markdown files; all escaping is there
"""

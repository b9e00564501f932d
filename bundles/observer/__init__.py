"""What a recorded command brings along: `sitecustomize.py`, found by its Python processes through `PYTHONPATH`.

It uses the standard library only and imports nothing of ours: it runs in the environment of the command.
"""

"""The commands of `runner/lifelong.py`: one file each, named as the command (`-` is `_`).

A command's module has `HELP`, `add_arguments(parser)` and `main(options) -> exit status`; a new
file here is a new command. What takes seconds to import is imported inside the functions.
"""

"""Commands of the command line: one module per command, named as the command (`-` is `_`).

A command module defines `HELP`, `EXAMPLE` (the arguments of an example), `add_arguments(parser)`
and `main(options, output) -> exit status`. A new module is a new command; modules whose names begin
with `_` are shared code. Slow imports belong inside the functions.
"""

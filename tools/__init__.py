"""The command line `mixstream <command>`: what you type. It uses the library's public names only.

`cli.py` holds the list of commands and how they fail, `console.py` how they speak; each command is a module or a
folder of its own and is imported when it is called.
"""

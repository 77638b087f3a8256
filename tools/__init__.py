"""The command line `mixstream <command>`, installed as `mixstream_tools`.

`cli.py` has the list of commands, and how each starts and ends. Each command is a folder; `command.py` in it has the
options and the help. `shared/` has what several commands use. Rules (tests/test_faces.py): of the library, only
`mixstream` and the faces of its packages are imported; a command imports from its own folder and from `shared`. The
demo also imports the face of `convert`, because it converts its text as a user would.
"""

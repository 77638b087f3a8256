"""SRC → domains and their files. What can be known before anything is converted is refused here.

sources.py         the domains of a command                 config.py          `--config corpus.toml`
naming.py          which domain a SRC is                    places.py          what a path names
store_places.py    what a URL names                         stdin.py           `-`: standard input, copied
listing.py         directories and patterns → files         saved_datasets.py  folders of Hugging Face datasets
datasets.py        what an index.json stands for            archives.py        which files hold many
found.py           the files of places, each once           checks.py          what is refused of them
sniff.py           what a file is                           refused.py         what to say of other formats
options.py         as they are typed
"""

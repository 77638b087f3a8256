"""What `DIR/.convert/` says is done, so that `kill -9` at any instant is safe.

ledger.py          the records of an output                 records.py         of a part: what it wrote
run_file.py        run.json: groups and their recipe        finished.py        which groups are published
part_files.py      the files of one part                    uploads.py         which objects are uploaded
output_directory.py  whether convert may write there        durable.py         files that outlive a kill, locks
identity.py        what a part was made of, as a hash
"""

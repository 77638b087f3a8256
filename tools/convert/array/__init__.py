"""`--part I/N`: one conversion as several tasks that need not see each other.

shares.py          options, and which parts a task has      task.py            one task, from sources to parts
locks.py           who may write at once                    part_store.py      parts of other machines, at the store
"""

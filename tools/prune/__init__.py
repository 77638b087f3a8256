"""`mixstream prune`: one file a command. `inputs` and `options` are shared by several of them."""

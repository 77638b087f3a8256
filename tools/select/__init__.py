"""`mixstream select`: one file a command. `budget`, `kept` and `texts` are shared by several of them."""

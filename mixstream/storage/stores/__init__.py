"""Kinds of stores, one a file. `mixstream.storage.open_store` picks one by its URL and imports only that."""

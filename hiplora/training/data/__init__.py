"""Data and scores of a run: `files` reads a user's file, `tokens` turns it into examples, `tasks` scores the model.

`files` does not load torch: it is used before a run is created.
"""

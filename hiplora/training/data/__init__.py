"""What a run learns from and is scored on: `files` reads a user's file, `tokens` makes examples of it, `tasks` scores.

`files` loads no torch: it is read before a run is made.
"""

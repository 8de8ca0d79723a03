"""Pytest looks for examples in every module; that of a guided campaign needs atheris, and is run by itself."""

collect_ignore = ["guided.py"]

"""The one exception that a person is meant to read."""


class HiploraError(ValueError):
    """Something a user handed us cannot be used.

    The message is one sentence that names the file or value and says what to do. The command line prints it and
    leaves with exit code 2; the app shows it in place of the page. No traceback goes with it.
    """

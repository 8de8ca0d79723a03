"""The exception whose message is written for the user."""


class HiploraError(ValueError):
    """Input from a user that cannot be used.

    The message is one sentence that names the file or value and says what to do. The command line prints it and
    leaves with exit code 2; the app shows it in place of the page. No traceback goes with it.
    """

"""The one exception that stands for a mistake the user can mend."""


class UserError(Exception):
    """A mistake in what the user gave: a path, a file, a field. The message is one line: what, where, what to do.

    Entry points print it as `error: <message>` and exit with status 1; anything else is a fault of ours and shows
    its traceback.
    """

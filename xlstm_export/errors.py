"""The one exception that is meant for people: the command line prints its message and exits with code 2."""


class UserError(Exception):
    """Something the user can mend. The message says what is wrong, where it is, and what to do."""

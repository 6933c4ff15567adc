"""What the user can mend: shown as one line, exit status 2, never a traceback."""


class UserError(Exception):
    """Something outside the program is wrong. The text says what, where, expected, got and the remedy, in one line."""


class Interrupted(Exception):
    """A signal asked the stage to stop; its checkpoint is written."""

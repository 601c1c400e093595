"""The two ways in which a command ends early: the user's mistake, and a fault of the machine."""


class UserError(ValueError):
    """A mistake that its reader can mend: one line that names the flag, file or shape, what was expected and found.

    The command prints it without a traceback and exits with status 2.
    """


class MachineError(Exception):
    """A fault of the machine (a full disk, a network out of reach): one line, exit status 1."""

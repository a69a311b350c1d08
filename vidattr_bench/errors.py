"""What can go wrong in ways a user can mend: each error names the file, the field and the remedy."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad usage or bad input: the command line prints it without a traceback and exits with status 2."""


class PluginError(UserError):
    """A plug-in that is unknown, configured wrongly, or does not import."""


class DataError(UserError):
    """A data set, annotation or video that is missing, empty, damaged or not what its name says."""


class InconsistentError(DataError):
    """An annotation that does not fit its video, or itself: the data may all be there, but cannot be used together."""


class ModelError(UserError):
    """A network or checkpoint that cannot be used for this data set."""


class RunError(UserError):
    """A run folder that cannot be written, is damaged, in use, or holds a run of other settings."""


class NotApplicableError(Exception):
    """The model lacks what a method requires: the cell's status becomes `not_applicable` with this reason."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: the nearest known names, or the first thirty of all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(known) - 30} more" if len(known) > 30 else ""
    return f"there are: {', '.join(known[:30]) or 'none'}{more}"

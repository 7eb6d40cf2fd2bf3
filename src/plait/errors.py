"""The errors that Plait raises on purpose.

PlaitError
├── InputError        what the user gave cannot be used: one line that says what, where and the remedy (exit code 2)
│   ├── ConfigError       an unknown key, a wrong value, a pattern that matches nothing
│   ├── DocumentError     a document that a system cannot lay out
│   ├── ImageError        a picture that cannot be read
│   └── CheckpointError   weights that do not fit
└── TrainingError     a run that must not go on: NaN, no target, a loss that stands at chance; or cannot: a full disk
"""

import difflib
import errno
from collections.abc import Collection, Iterable
from itertools import islice

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What an OSError says where there is no room to write: on the disk, in a quota, in one file."""

_SHOWN = 3  # names that a message lists


class PlaitError(Exception):
    """Base of all errors that Plait raises on purpose."""


class InputError(PlaitError, ValueError):
    """What the user gave cannot be used."""


class ConfigError(InputError):
    """A configuration with an unknown key, a wrong value or a pattern that matches nothing."""


class DocumentError(InputError):
    """A document that cannot be read, or that a system cannot lay out."""


class ImageError(InputError):
    """A picture that cannot be read."""


class CheckpointError(InputError):
    """Weights or a directory that do not fit what is asked of them."""


class TrainingError(PlaitError):
    """A run that must not go on, or cannot."""


class Interrupted(PlaitError):
    """The user stopped a run, which was saved."""


def hint(name: str, names: Iterable[str]) -> str:
    """For the message about an unknown name: the one that is near, or all there are."""
    names = list(names)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def listed(names: Collection[str], before: str = "") -> str:
    """For the message about several names: the first three, behind `before`, and how many more; "" where none are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return before + ", ".join(islice(names, _SHOWN)) + more if names else ""

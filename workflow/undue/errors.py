"""The one error that is meant for the person at the keyboard."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: says what is wrong, where, and what to do.

    Jobs print it without a traceback; every other exception is a defect of ours and keeps its traceback.

    Args:
        what: what is wrong, in one sentence.
        where: the config key, file or record it concerns.
        remedy: what to do about it.
    """

    def __init__(self, what: str, *, where: str, remedy: str) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        super().__init__(f"{where}: {what}\n  What to do: {remedy}")

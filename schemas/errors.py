"""The error tree. Errors are *our* fault or the caller's; what a candidate does wrong is data, never an error.

    GateError                 we could not decide                      exit 3
    ├── UsageError            the caller asked for something unusable   exit 2
    ├── PrerequisiteError     something must be installed or started    exit 2
    ├── EngineError           the container engine failed or vanished   exit 3, retryable
    └── SealError             a container did not come out sealed       exit 3

Every message is one line that says what, why and how to fix it.
"""


class GateError(Exception):
    """We could not decide. Carries the exit code of the command and whether the same call may work later."""

    exit_code = 3
    retryable = False


class UsageError(GateError):
    """An argument, a file or a setting that cannot be used as it is."""

    exit_code = 2


class PrerequisiteError(GateError):
    """Something this machine lacks: an engine, a daemon, a library, a right."""

    exit_code = 2


class EngineError(GateError):
    """The container engine refused, hung or vanished. The candidate is not to blame."""

    retryable = True


class SealError(GateError):
    """A container whose effective configuration is not the one that was asked for. It was not started."""

"""What can be wrong with a call, by whose fault it is.

Each error knows the sentence for the client and the name under which the record and the metrics count it. The
protocol's status code travels with it because every one of these becomes exactly one answer:

    InferenceError
    ├── BadCall        400  the client's: malformed, wrong name, datatype, shape
    │   └── WrongHost  400  called by a name that is not this machine's
    ├── BadInput       400  the client's: the bundle's `preprocess` refused what an input holds
    ├── Unauthorized   401  no key, or an unknown one
    ├── Forbidden      403  a web page from elsewhere
    ├── NotFound       404  no such model or version here
    ├── BodyTimeout    408  the rest of the body did not come in time
    ├── TooLarge       413  a body beyond the limit
    ├── Unsupported    415  an encoding that nobody here speaks
    ├── ClientGone     499  nobody waits for the answer any more
    ├── ModelFailed    500  the model raised, or answered something that it did not declare
    ├── Unavailable    503  ours, and worth another try: starting, full, draining, log not writable
    ├── TimedOut       504  the deadline passed
    └── Declined       …    control's refusal of what it was asked on a client's behalf; the status is control's
"""


class InferenceError(Exception):
    """One refused or failed call; `str(error)` is the sentence that the client reads."""

    status = 500
    error_type = "error"
    stranger = False
    """Whether nobody knows who called: such a refusal is only counted (`unknown`)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadCall(InferenceError):
    """The call itself is wrong; the message names the field, what came and what was expected."""

    status = 400
    error_type = "bad_call"


class BadInput(InferenceError):
    """What an input holds is wrong, in the words of the bundle's `preprocess`."""

    status = 400
    error_type = "bad_input"


class WrongHost(BadCall):
    """The name in `Host` is not one that this port is called by."""

    stranger = True


class Unauthorized(InferenceError):
    """No key, or one that is not in the key file."""

    stranger = True
    status = 401
    error_type = "unauthorized"


class Forbidden(InferenceError):
    """A web page that is not from here."""

    stranger = True
    status = 403
    error_type = "forbidden"


class NotFound(InferenceError):
    """No such model or version is served here."""

    status = 404
    error_type = "not_found"


class BodyTimeout(InferenceError):
    """The rest of the body did not come in time."""

    status = 408
    error_type = "body_timeout"


class TooLarge(InferenceError):
    """The body is larger than the limit."""

    status = 413
    error_type = "too_large"


class Unsupported(InferenceError):
    """A content encoding that the gateway does not speak."""

    status = 415
    error_type = "unsupported"


class ClientGone(InferenceError):
    """The client closed its connection before the answer."""

    status = 499
    error_type = "client_gone"


class ModelFailed(InferenceError):
    """The model raised, or its answer can't be sent as asked."""

    status = 500
    error_type = "model_failed"


class Unavailable(InferenceError):
    """Not now: starting, full, draining, or the log can't be written. The answer carries `Retry-After`."""

    status = 503
    error_type = "unavailable"


class TimedOut(InferenceError):
    """The deadline passed before the model answered."""

    status = 504
    error_type = "timed_out"


class Declined(InferenceError):
    """Control can't do, or won't do, what a client asked of it through a worker."""

    error_type = "declined"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status

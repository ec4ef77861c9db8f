import copy
import inspect
import pickle

import pytest

from busframe import errors
from busframe.errors import (
    AccessDenied,
    AlreadySettled,
    Backpressure,
    BusframeError,
    ClosedError,
    ConfigurationError,
    ConnectionFailed,
    DestinationNotFound,
    InvalidHeader,
    InvalidName,
    MessageTooLarge,
    PublishError,
    PublishFailed,
    PublishOutcomeUnknown,
    RequestFailed,
    SettlementLost,
    TransportError,
    Unsupported,
)

ALL = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == errors.__name__
]
EXAMPLES = [
    ConfigurationError(["one", "two"]),
    InvalidName("wrong"),
    Unsupported("cannot"),
    TransportError("down", transient=False),
    ConnectionFailed(),
    AccessDenied(),
    PublishFailed(message_id="m"),
    Backpressure("full", transient=False),
    PublishOutcomeUnknown("who knows", message_id="m"),
    DestinationNotFound("emails", message_id="m"),
    MessageTooLarge(10, 5, message_id="m"),
    InvalidHeader("bad", message_id="m"),
    RequestFailed("rejected", message_id="m"),
    SettlementLost("lost"),
    ClosedError("closed"),
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_has_one_root_and_says_when_it_is_raised(kind: type[Exception]) -> None:
    """One except clause catches all, and each class has a docstring of its own."""
    assert issubclass(kind, BusframeError)
    assert kind.__doc__
    assert all(kind.__doc__ != base.__doc__ for base in kind.__bases__)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_errors_survive_a_copy_and_a_pickle(error: BusframeError) -> None:
    """An error that crosses a process keeps its class, its text and its facts."""
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_one_problem_is_the_text_itself() -> None:
    """A single problem needs no list."""
    assert str(ConfigurationError("wrong: do this")) == "wrong: do this"
    assert str(InvalidName(["wrong: do this"])) == "wrong: do this"
    assert ConfigurationError("wrong").problems == ("wrong",)


def test_many_problems_are_listed() -> None:
    """All that was found is told at once, one line each."""
    error = ConfigurationError(["first", "second"])
    assert error.problems == ("first", "second")
    assert str(error) == "2 problems:\n  - first\n  - second"


def test_transient_says_whether_waiting_helps() -> None:
    """A lost connection may come back, refused credentials stay refused, and the raiser may know better."""
    assert TransportError().transient is True
    assert ConnectionFailed("gone").transient is True
    assert AccessDenied().transient is False
    assert AccessDenied("a token is being renewed", transient=True).transient is True
    assert PublishFailed().transient is True
    assert Backpressure("full", transient=False).transient is False


def test_a_publish_error_names_its_message() -> None:
    """The text has the id where it is known, also when it is filled in later."""
    error = PublishOutcomeUnknown("no answer in 5 s")
    assert str(error) == "no answer in 5 s"
    error.message_id = "m-1"
    assert str(error) == "no answer in 5 s (message m-1)"
    assert PublishError().message_id == ""


def test_unknown_outcome_is_no_failure() -> None:
    """Whoever publishes again after PublishFailed must not do so blindly after PublishOutcomeUnknown."""
    assert not issubclass(PublishOutcomeUnknown, PublishFailed)
    assert issubclass(Backpressure, PublishFailed)


def test_facts_are_attributes() -> None:
    """What an error knows can be read without parsing its text, and the text has it too."""
    missing = DestinationNotFound("emails")
    assert missing.destination == "emails"
    assert "'emails' does not exist" in str(missing)
    large = MessageTooLarge(300, 200, message_id="m")
    assert (large.size, large.limit, large.message_id) == (300, 200, "m")
    assert "300 bytes and the limit is 200" in str(large)
    failed = RequestFailed("undecodable")
    assert failed.reason == "undecodable"
    assert str(failed) == "the request failed: undecodable"
    assert isinstance(AlreadySettled("twice"), errors.DeliveryError)

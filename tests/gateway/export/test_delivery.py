"""Delivery to a real receiver that is down, slow, busy, picky or well."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cloudevents.core.base import BaseCloudEvent

from gateway.export import delivery as delivery_module
from gateway.export.delivery import Delivery, Receiver
from gateway.export.events import FORMATS, Event
from tests.conftest import wait_until
from tests.gateway.export.conftest import FINE, Answer, EventReceiver, record

Deliver = Callable[..., Delivery]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pause is a twentieth of what it is, so that ten tries take no minute."""
    monkeypatch.setattr(delivery_module, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(delivery_module, "LONGEST_PAUSE_SECONDS", 0.1)


@pytest.fixture
def ending() -> threading.Event:
    """Ends a delivery early."""
    return threading.Event()


@pytest.fixture
def to(receiver: EventReceiver, ending: threading.Event) -> Iterator[Deliver]:
    """Make deliveries to the receiver; they are closed with the test."""
    made: list[Delivery] = []

    def make(
        format: str = "kserve", *, url: str | None = None, give_up: float | None = None, **more: object
    ) -> Delivery:
        chosen = Receiver(url or receiver.url, format, **more)  # type: ignore[arg-type]
        made.append(Delivery(chosen, ending, give_up_seconds=give_up))
        return made[-1]

    yield make
    ending.set()
    for one in made:
        one.close()


def events(count: int, form: str = "kserve") -> list[list[Event]]:
    """The events of some records."""
    return [FORMATS[form](record(), "production") for _ in range(count)]


def ids(made: list[list[Event]]) -> list[str]:
    """Their ids, in order."""
    return [event.attributes["id"] for one in made for event in one]


def test_all_arrive_each_record_s_in_order_over_few_connections(to: Deliver, receiver: EventReceiver) -> None:
    """A request comes before its response, several records are under way, and a connection is used again and again."""
    made = events(60)
    delivery = to(in_flight=4)
    assert delivery.deliver(made)
    assert sorted(receiver.ids()) == sorted(ids(made))
    for one in made:
        places = [place for place, event in enumerate(receiver.events) if event.get_id() == one[0].attributes["id"]]
        assert [receiver.events[place].get_type().rpartition(".")[2] for place in places] == ["request", "response"]
    assert receiver.connections <= 4
    assert (delivery.counts.sent, delivery.counts.failed, delivery.counts.set_aside) == (120, 0, 0)
    assert delivery.counts.last_success is not None


def test_our_own_events_go_in_batches(to: Deliver, receiver: EventReceiver) -> None:
    """So many of them in one request, the rest in the last."""
    made = events(25, "cloudevents")
    assert to("cloudevents", batch=10).deliver(made)
    assert sorted(receiver.ids()) == sorted(ids(made))
    assert len(receiver.requests) == 3


@pytest.mark.parametrize("status", [500, 503, 429, 408, 401, 404, 301])
def test_a_receiver_in_trouble_gets_all_of_it_when_it_is_well(
    to: Deliver, receiver: EventReceiver, status: int
) -> None:
    """What may change is tried again, and nothing is set aside; meanwhile it is not stormed by the others."""
    tries = 0

    def answers(_events: list[BaseCloudEvent]) -> Answer:
        nonlocal tries
        tries += 1
        return FINE if tries > 10 else (status, {"Location": "http://127.0.0.1:9/"})

    receiver.answers = answers
    made = events(20)
    delivery = to(in_flight=2)
    assert delivery.deliver(made)
    assert sorted(receiver.ids()) == sorted(ids(made))
    assert delivery.counts.set_aside == 0
    assert delivery.counts.failed == 10
    assert f'answered {status} {{"error": "not now"}}' in str(delivery.counts.last_error)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_will_never_be_taken_is_set_aside_and_holds_nobody_up(
    to: Deliver, receiver: EventReceiver, status: int
) -> None:
    """One event that is refused for what it is: counted, named, and all others arrive, its own response too."""
    made = events(20)
    bad = made[7][0]

    def answers(events: list[BaseCloudEvent]) -> Answer:
        is_bad = (events[0].get_id(), events[0].get_type()) == (bad.attributes["id"], bad.attributes["type"])
        return (status, {}) if is_bad else FINE

    receiver.answers = answers
    delivery = to()
    assert delivery.deliver(made)
    assert len(receiver.events) == 39
    assert (delivery.counts.sent, delivery.counts.set_aside, delivery.counts.failed) == (39, 1, 0)
    (told,) = delivery.counts.to_json()["newest_set_aside"]
    assert told["prediction"] == bad.prediction
    assert f"answered {status}" in told["error"]


def test_of_a_refused_batch_only_the_refused_events_are_set_aside(to: Deliver, receiver: EventReceiver) -> None:
    """It is halved until each stands alone, so what is good in it arrives, once."""
    made = events(64, "cloudevents")
    bad = {made[3][0].attributes["id"], made[40][0].attributes["id"]}
    receiver.answers = lambda events: (400, {}) if bad & {one.get_id() for one in events} else FINE
    delivery = to("cloudevents", batch=64)
    assert delivery.deliver(made)
    assert sorted(receiver.ids()) == sorted(set(ids(made)) - bad)
    assert {one["prediction"] for one in delivery.counts.newest_set_aside} == bad
    assert len(receiver.requests) < 30


def test_retry_after_is_waited_for(
    to: Deliver, receiver: EventReceiver, ending: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause is as long as the receiver asks for, not as short as ours."""
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    monkeypatch.setattr(ending, "wait", wait)
    receiver.answers = lambda _events: FINE if len(receiver.requests) > 1 else (429, {"Retry-After": "7"})
    assert to(in_flight=1).deliver(events(1))
    assert pauses == [7.0]


def test_nobody_listens(to: Deliver, receiver: EventReceiver, ending: threading.Event) -> None:
    """A refused connection is tried again until it is the end; what is left has not been delivered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    delivery = to(url=f"http://127.0.0.1:{port}/")
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(delivery.deliver(events(3))))
    thread.start()
    wait_until(lambda: delivery.counts.failed >= 3, what="three tries")
    ending.set()
    thread.join(10)
    assert done == [False]
    assert delivery.counts.sent == 0


def test_a_receiver_that_never_answers_is_given_up_and_tried_again(to: Deliver, receiver: EventReceiver) -> None:
    """The first call is heard and not answered in time: it comes again, and the receiver has it twice, with one id."""
    silent = threading.Event()

    def answers(_events: list[BaseCloudEvent]) -> Answer:
        if len(receiver.requests) == 1:
            silent.wait(20)
        return FINE

    receiver.answers = answers
    delivery = to("cloudevents", timeout_seconds=0.3, in_flight=1)
    made = events(2, "cloudevents")
    assert delivery.deliver(made)
    silent.set()
    wait_until(lambda: len(receiver.events) == 3, what="the late answer")
    assert set(receiver.ids()) == set(ids(made))
    assert delivery.counts.failed == 1


def test_headers_come_from_a_file_that_may_change(to: Deliver, receiver: EventReceiver, tmp_path: Path) -> None:
    """A secret that expired is replaced without a restart; a file that is none holds everything up, and says so."""
    file = tmp_path / "headers"
    file.write_text("Authorization: Bearer old\n\nX-Other: 1\n")
    receiver.answers = lambda _events: FINE if receiver.requests[-1].get("Authorization") == "Bearer new" else (401, {})
    delivery = to(header_file=str(file), in_flight=1)
    done: list[bool] = []
    thread = threading.Thread(target=lambda: done.append(delivery.deliver(events(1))))
    thread.start()
    wait_until(lambda: delivery.counts.failed >= 1, what="a refusal")
    assert receiver.requests[0]["X-Other"] == "1"
    file.write_text("secret without a colon\n")
    wait_until(lambda: "line 1: expected a header" in str(delivery.counts.last_error), what="the file's fault")
    assert "secret" not in str(delivery.counts.last_error).removeprefix(str(file))
    file.write_text("Authorization: Bearer new\n")
    thread.join(20)
    assert done == [True]


def test_a_command_gives_up(to: Deliver, receiver: EventReceiver) -> None:
    """With a limit, a receiver that takes nothing for so long ends it."""
    receiver.answers = lambda _events: (503, {})
    assert not to(give_up=0.2).deliver(events(1))


def test_a_long_answer_costs_its_connection_and_nothing_else(to: Deliver) -> None:
    """A receiver that says more than anybody reads has taken the event all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            for _ in range(2):
                connection, _address = server.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n" + b"x" * 100_000)

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        delivery = to("cloudevents", url=f"http://127.0.0.1:{server.getsockname()[1]}/", in_flight=1)
        assert delivery.deliver(events(2, "cloudevents"))
        assert delivery.counts.sent == 2
        thread.join(10)

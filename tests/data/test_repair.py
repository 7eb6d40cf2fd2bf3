"""Texts repaired by an endpoint that also fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from plait.data.repair import ORDERS, Answer, Endpoint, Unanswered
from plait.errors import ConfigError, InputError

if TYPE_CHECKING:
    from conftest import Server


def test_what_is_asked_and_what_is_answered(server: Server) -> None:
    endpoint = Endpoint(url=server.url, model="small", key="secret")
    answer = endpoint.ask("A dog.", pytest.fail)
    assert answer == Answer(text="A dog. It is put right.", prompt_tokens=100, completion_tokens=10, cut=False, tries=1)
    said = [{"role": "system", "content": ORDERS}, {"role": "user", "content": "A dog."}]
    wanted = {"path": "/v1/chat/completions", "model": "small", "messages": said, "temperature": 0.7, "max_tokens": 200}
    assert server.requests == [wanted]
    assert server.headers[0]["Authorization"] == "Bearer secret"
    server.finish = "length"
    assert Endpoint(url=server.url + "/chat/completions", model="small").ask("A dog.", pytest.fail).cut
    assert server.requests[1]["path"] == wanted["path"] and "Authorization" not in server.headers[1]


def test_the_orders_are_six() -> None:
    assert [line[0] for line in ORDERS.splitlines()[1:]] == list("123456")


def test_it_tries_again(server: Server) -> None:
    server.faults = [429, 500, "drop", "words", "cut"]
    waited: list[float] = []
    answer = Endpoint(url=server.url, model="m").ask("A dog.", waited.append)
    assert (answer.tries, server.paid["A dog."], len(server.requests)) == (6, 1, 6)
    assert waited[0] == 2.0  # what it asked for, which is the most that the first wait may be
    assert all(1 <= wait <= 2**attempt for attempt, wait in enumerate(waited, start=1))
    server.faults = ["empty", "null", 503]
    assert Endpoint(url=server.url, model="m", waits=(0, 0)).ask("B", waited.append).tries == 4
    assert waited[5:] == [0, 0, 0]


def test_waits_have_a_limit(server: Server) -> None:
    server.faults = [503] * 5
    waited: list[float] = []
    Endpoint(url=server.url, model="m", waits=(3.0, 4.0)).ask("A", waited.append)
    assert len(waited) == 5 and all(3 <= wait <= 4 for wait in waited)


def test_it_gives_up(server: Server) -> None:
    server.down = True
    waited: list[float] = []
    with pytest.raises(Unanswered, match=r"no usable answer in 3 tries; the last: state 500 \(no, 500\)"):
        Endpoint(url=server.url, model="m", tries=3).ask("A", waited.append)
    assert (len(waited), len(server.requests)) == (2, 3)


def test_nobody_there() -> None:
    with pytest.raises(Unanswered, match="refused"):
        Endpoint(url="http://127.0.0.1:9/v1", model="m", tries=2, waits=(0, 0)).ask("A", lambda seconds: None)


@pytest.mark.parametrize("state", [400, 401, 404])
def test_a_refusal_is_no_reason_to_try_again(server: Server, state: int) -> None:
    server.faults = [state]
    with pytest.raises(InputError, match=rf"state {state} \(no, {state}\); check the address, the key") as told:
        Endpoint(url=server.url, model="m", key="secret").ask("A", pytest.fail)
    assert "secret" not in str(told.value) and len(server.requests) == 1


def test_the_key_goes_to_no_other_address(server: Server) -> None:
    server.faults = ["moved"]
    with pytest.raises(InputError, match="state 302"):
        Endpoint(url=server.url, model="m", key="secret").ask("A", pytest.fail)
    assert [request["path"] for request in server.requests] == ["/v1/chat/completions"]


def test_settings_that_are_none() -> None:
    for url in ("file:///etc/passwd", "localhost:80", ""):
        with pytest.raises(ConfigError, match="is no address of an endpoint"):
            Endpoint(url=url, model="m")
    with pytest.raises(ConfigError, match="0 tries"):
        Endpoint(url="http://a", model="m", tries=0)
    with pytest.raises(ConfigError, match="waits"):
        Endpoint(url="http://a", model="m", waits=(2, 1))

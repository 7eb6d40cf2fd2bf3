"""Repair of written descriptions by a language model behind an OpenAI-compatible endpoint (MiniGPT-4, section 3.2)."""

from __future__ import annotations

import http.client
import json
import random
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlparse

from plait.errors import ConfigError, InputError, PlaitError

ORDERS = """\
You are given the description of a picture, as a program wrote it. Return the description, put right by these orders.
1. Correct every mistake.
2. Take out sentences that say again what was said before, signs without meaning, and words that are not English.
3. Shorten what repeats itself without need.
4. Rewrite sentences that are not complete.
5. Give the description alone: do not explain what you changed.
6. If there is nothing to change, give the description back as it is, and do not explain that either."""
"""What the endpoint is told, in words of our own: the authors' six orders."""

LATER = frozenset({408, 409, 425, 429})
"""States, besides 500 and above, with which a server asks to try again."""


class Unanswered(PlaitError):
    """An endpoint that gave no usable answer, however often it was asked."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an endpoint answered, what it counted for that, and how often it was asked."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool
    """Whether it ran into `max_tokens`."""
    tries: int


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible endpoint; the numbers are those of the authors' script.

    Args:
        url: up to `/chat/completions`, with or without it.
        key: sent as a bearer token; "": none.
        waits: seconds between tries are drawn between the first and a limit that doubles up to the second.
        timeout: seconds until an answer must be there.

    Raises:
        ConfigError: not an address of http or https; no try; waits that are none.
    """

    url: str
    model: str
    key: str = ""
    temperature: float = 0.7
    max_tokens: int = 200
    tries: int = 6
    waits: tuple[float, float] = (1.0, 60.0)
    timeout: float = 120.0

    def __post_init__(self) -> None:
        parts = urlparse(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"{self.url!r} is no address of an endpoint: give one as https://HOST/v1")
        if self.tries < 1 or not 0 <= self.waits[0] <= self.waits[1]:
            raise ConfigError(f"{self.tries} tries, waits {self.waits}: at least 1 try, and two times, the first less")

    def ask(self, text: str, sleep: Callable[[float], object]) -> Answer:
        """The text as the endpoint repairs it.

        Args:
            sleep: called with seconds between tries; what it raises ends them.

        Raises:
            InputError: it refuses the request: a wrong key, model or address.
            Unanswered: no usable answer after all tries.
        """
        fault, least = "", 0.0
        for attempt in range(self.tries):
            if attempt:
                sleep(max(least, self._wait(attempt)))
            try:
                return self._read(self._post(text), attempt + 1)
            except urllib.error.HTTPError as error:
                with error:
                    fault = f"state {error.code}{_detail(error)}"
                    if error.code not in LATER and error.code < 500:
                        raise InputError(f"{self.url}: {fault}; check the address, the key and the model") from error
                    least = min(_seconds(error.headers.get("Retry-After")), self.waits[1])
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                fault, least = f"{type(error).__name__}: {error}", 0.0  # no connection, a cut or a broken answer
        raise Unanswered(f"{self.url}: no usable answer in {self.tries} tries; the last: {fault}")

    def _wait(self, attempt: int) -> float:
        low, high = self.waits
        return random.uniform(low, max(low, min(high, 2.0**attempt)))

    def _post(self, text: str) -> bytes:
        said = [{"role": "system", "content": ORDERS}, {"role": "user", "content": text}]
        wanted = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        headers = {"Content-Type": "application/json", "User-Agent": "plait"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        request = urllib.request.Request(
            self.url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions",
            data=json.dumps({"model": self.model, "messages": said, **wanted}).encode(),
            headers=headers,
        )
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
            answer: bytes = response.read(_LARGEST)
        return answer

    def _read(self, content: bytes, tries: int) -> Answer:
        value = json.loads(content)
        choice, used = value["choices"][0], value.get("usage") or {}
        text = choice["message"]["content"]
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}, not text")
        return Answer(
            text=text.strip(),
            prompt_tokens=int(used.get("prompt_tokens", 0)),
            completion_tokens=int(used.get("completion_tokens", 0)),
            cut=choice.get("finish_reason") == "length",
            tries=tries,
        )


_LARGEST = 2**24  # bytes of an answer


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The key goes to no other address than the one that was given."""

    def redirect_request(self, *given: object) -> None:
        """None: the redirection is an error."""


def _detail(error: urllib.error.HTTPError) -> str:
    """What an OpenAI-compatible server says about its refusal."""
    try:
        return f" ({json.loads(error.read(_LARGEST))['error']['message'][:200]})"
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return ""


def _seconds(value: str | None) -> float:
    return float(value) if value and value.isdecimal() else 0.0

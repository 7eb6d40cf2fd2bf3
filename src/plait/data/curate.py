"""Data for a second stage, written by the model of the first: described, repaired, judged by rules and by a person.

Source: MiniGPT-4 (arXiv 2304.10592, section 3.2, and what is known of the authors' script). Any system that reads
pictures and writes text can describe.

Everything lies in one folder:

    curation.json     what decides the texts: model, source, prompts, settings
    described.jsonl   one line for each picture: its text, or why there is none
    repaired.jsonl    one line for each answer of the endpoint, with the tokens that it counted
    choices.json      what a person decided
    train/            shards of what is kept: documents [text, picture]
    review.html       the page to decide on
    report.json       the counts

A line is written as soon as there is something to say, so an interrupted run goes on where it was; the shards, the page
and the report are made again from the lines each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plait.data.describe import Description, key_of
from plait.data.intake import REPORT, Entry, content_of
from plait.data.repair import Answer, Endpoint, Unanswered
from plait.data.review import Choice, Shown, read_choices, write_page
from plait.data.shards import ShardWriter, write_json
from plait.document import Document, Image
from plait.errors import ConfigError, InputError

CURATION, DESCRIBED, REPAIRED, CHOICES, PAGE = (
    "curation.json",
    "described.jsonl",
    "repaired.jsonl",
    "choices.json",
    "review.html",
)
SPLIT = "train"
GIVE_UP = 3  # items in a row without an answer: then the endpoint is down, rather than an item odd
Told = Callable[[str], None]
Describe = Callable[[Sequence[bytes]], Sequence[Description]]
"""Files of pictures -> what is said of each, such as `plait.data.describe.Describer`."""


# --------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is rejected without a person; may be changed from run to run."""

    min_characters: int = 50
    apologies: tuple[str, ...] = ("i'm sorry", "i am sorry", "i apologize", "i apologise", "my apologies")
    """Of a model that speaks of its mistakes; in small letters."""
    max_repeated: float = 0.2
    """The largest share of runs of four words that were there before; a sentence that comes twice is too much."""

    def judge(self, original: str, reply: str | None = None, cut: bool = False) -> tuple[str, str]:
        """The text, and why it is rejected ("": it is not).

        Args:
            reply: the endpoint's, if there is one.
            cut: whether it ran into its limit of tokens.
        """
        text, said = original, (reply or "").lower()
        if "already correct" in said:
            if "repetition" in said:
                return text, "repetition"
        elif reply is not None:
            text = reply
            if "incomplete" in said:
                return text, "incomplete"
            if cut:
                return text, "cut"
        if len(text) < self.min_characters:
            return text, "short"
        if any(phrase in text.lower().replace("’", "'") for phrase in self.apologies):
            return text, "apology"
        return text, "repetition" if repeated(text) > self.max_repeated else ""


def repeated(text: str) -> float:
    """The share of runs of four words that stand in the text before; 1 where a sentence comes twice."""
    sentences = [" ".join(re.findall(r"\w+", one.lower())) for one in re.split(r"[.!?\n]+", text)]
    counts = Counter(sentence for sentence in sentences if sentence)
    if any(count > 1 for count in counts.values()):
        return 1.0
    words = re.findall(r"\w+", text.lower())
    runs = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


# --------------------------------------------------------------------------------------------- the run


@dataclass(frozen=True, kw_only=True)
class Repair:
    """An endpoint with what it costs.

    Args:
        price: for a million tokens, those that it reads and those that it writes.
        workers: how many texts are there at once.
    """

    endpoint: Endpoint
    price: tuple[float, float] = (0.0, 0.0)
    workers: int = 4

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"{self.workers} workers to repair: give at least 1")


class Bill:
    """What answers took, summed up as they come."""

    def __init__(self, price: tuple[float, float]) -> None:
        self.price = price
        self.answers = self.tries = self.read = self.written = 0

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Counts those of all lines that are new."""
        for line in lines[self.answers :]:
            self.answers += 1
            self.tries += line["tries"]
            self.read += line["prompt_tokens"]
            self.written += line["completion_tokens"]

    @property
    def cost(self) -> float:
        """In the currency of the price."""
        return (self.read * self.price[0] + self.written * self.price[1]) / 1e6

    def __str__(self) -> str:
        cost = f", cost {self.cost:.4f}" if any(self.price) else ""
        return f"{self.read} tokens read, {self.written} written{cost}"


class Curation:
    """A folder in which descriptions are gathered.

    Args:
        identity: what decides the texts; a folder that was begun with another is refused.

    Raises:
        InputError: `out` holds something else, or was begun otherwise.
    """

    def __init__(self, out: str | Path, identity: Mapping[str, Any], tell: Told = lambda text: None) -> None:
        self.out = Path(out)
        self.identity = json.loads(json.dumps(identity))
        self.tell = tell
        begun = self.out / CURATION
        if not begun.is_file():
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise InputError(f"{self.out}: is not empty and holds no curation; choose another folder")
        elif (known := _object(begun)) != self.identity:
            names = [name for name in {**known, **self.identity} if known.get(name) != self.identity.get(name)]
            was, now = known.get(names[0]), self.identity.get(names[0])
            raise InputError(f"{self.out}: was begun with {names[0]} {was!r}, not {now!r}; give that, or another --out")

    def describe(self, entries: Sequence[Entry], describer: Callable[[], Describe], batch: int = 8) -> None:
        """Describes the pictures that are not described yet; what cannot be read is noted.

        Args:
            describer: called if there is anything to do.
            batch: pictures that are described side by side, and lost together by an interruption.

        Raises:
            ConfigError: no picture in a batch.
        """
        if batch < 1:
            raise ConfigError(f"{batch} pictures in a batch: give at least 1")
        self.out.mkdir(parents=True, exist_ok=True)
        if not (self.out / CURATION).is_file():
            write_json(self.out / CURATION, self.identity)
        log = Log(self.out / DESCRIBED)
        known = _latest(log)
        first = {line["key"]: name for name, line in known.items() if "key" in line}
        left = [entry for entry in entries if "broken" in known.get(entry.name, {"broken": ""})]  # it may be whole now
        done = len(known) - sum(entry.name in known for entry in left)
        ask: Describe | None = None
        with ThreadPoolExecutor(min(os.cpu_count() or 1, batch)) as pool:
            for at in range(0, len(left), batch):
                window = left[at : at + batch]
                lines: list[dict[str, Any]] = []
                found: dict[str, bytes] = {}
                for entry, content in zip(window, pool.map(content_of, window), strict=True):
                    if isinstance(content, str):
                        lines.append({"name": entry.name, "broken": content})
                    elif (key := key_of(content)) in first:
                        lines.append({"name": entry.name, "duplicate": first[key]})
                    else:
                        first[key] = entry.name
                        found[key] = content
                if found:
                    ask = ask or describer()
                    said = ask(list(found.values()))
                    lines += [
                        {"key": key, "name": first[key], **asdict(one)} for key, one in zip(found, said, strict=True)
                    ]
                log.append(*(line for line in lines if line != known.get(line["name"])))
                self.tell(f"described {done + at + len(window)} of {done + len(left)} pictures")

    def repair(self, repair: Repair) -> None:
        """Asks the endpoint for each description that it has not answered yet; no answer is asked for twice.

        A description without an answer after all tries stays for the next run.

        Raises:
            InputError: the endpoint refuses the request; or another model answered before.
            Unanswered: it seems to be down.
        """
        log = Log(self.out / REPAIRED)
        model = repair.endpoint.model
        if others := {line["model"] for line in log.lines} - {model}:
            raise InputError(
                f"{log.path}: has answers of {sorted(others)[0]}, not {model}; give that, or another --out"
            )
        answered = {line["key"] for line in log.lines}
        left = [line for line in Log(self.out / DESCRIBED).lines if line.get("text") and line["key"] not in answered]
        ended = threading.Event()

        def sleep(seconds: float) -> None:
            if ended.wait(seconds):
                raise Unanswered("ended")

        def one(line: Mapping[str, Any]) -> None:
            if ended.is_set():
                raise Unanswered("ended")
            answer: Answer = repair.endpoint.ask(line["text"], sleep)
            log.append({"key": line["key"], "model": model, **asdict(answer)})  # at once: it is paid for

        failures, bill = 0, Bill(repair.price)
        with ThreadPoolExecutor(repair.workers) as pool:
            try:
                for future in as_completed([pool.submit(one, line) for line in left]):
                    try:
                        future.result()
                        failures = 0
                    except Unanswered as error:
                        failures += 1
                        self.tell(str(error))
                        if failures == GIVE_UP:
                            raise Unanswered(f"{error}; {failures} texts in a row: run this again to go on") from error
                    bill.add(log.lines)
                    self.tell(f"repaired {bill.answers} of {len(answered) + len(left)} texts: {bill}")
            finally:  # those that are under way are waited for, and written
                ended.set()
                pool.shutdown(cancel_futures=True)

    def finish(
        self, entries: Sequence[Entry], rules: Rules, repair: Repair | None = None, choices: Path | None = None
    ) -> dict[str, Any]:
        """Judges, and writes the shards, the page and the report, which it gives back.

        Args:
            choices: a file that the page saved; it stays in force in later runs, until another is given.

        Raises:
            InputError: choices of other pictures.
        """
        described, repaired = list(_latest(Log(self.out / DESCRIBED)).values()), Log(self.out / REPAIRED).lines
        items = [line for line in described if "key" in line]
        kept = self.out / CHOICES
        chosen = choices or (kept if kept.is_file() else None)
        by_hand = read_choices(chosen, [line["key"] for line in items]) if chosen else {}
        if choices is not None and choices.resolve() != kept.resolve():
            shutil.copyfile(choices, kept)
        answers = {line["key"]: line for line in repaired}
        verdicts = [
            _verdict(line, answers.get(line["key"]), rules, by_hand.get(line["key"]), bool(repair or answers))
            for line in items
        ]
        contents = _Contents(entries)
        gone = self._write_shards(verdicts, contents)
        shown = (verdict.shown(contents(verdict) or b"") for verdict in verdicts)
        identity = hashlib.sha256("".join(sorted(line["key"] for line in items)).encode()).hexdigest()[:16]
        write_page(self.out / PAGE, f"{len(items)} described pictures", shown, identity, by_hand)
        report = self._report(described, repaired, verdicts, gone, repair)
        write_json(self.out / REPORT, report)
        return report

    def _write_shards(self, verdicts: Sequence[_Verdict], contents: _Contents) -> list[str]:
        """Writes those that are kept; gives the names of those whose pictures are not what they were."""
        fresh, gone = self.out / f"{SPLIT}.new", []
        shutil.rmtree(fresh, ignore_errors=True)
        with ShardWriter(fresh) as writer:
            number = 0
            for verdict in verdicts:
                if verdict.reason:
                    continue
                content = contents(verdict)
                if content is None:
                    gone.append(verdict.name)
                    verdict.reason = "picture gone"
                    continue
                document = Document([verdict.text, Image(content)])
                writer.add(f"{number:08d}", document, {"file": verdict.name, "original": verdict.original})
                number += 1
        shutil.rmtree(self.out / SPLIT, ignore_errors=True)
        if number:
            fresh.replace(self.out / SPLIT)
        else:
            shutil.rmtree(fresh)
        return gone

    def _report(
        self,
        described: Sequence[Mapping[str, Any]],
        repaired: Sequence[Mapping[str, Any]],
        verdicts: Sequence[_Verdict],
        gone: Sequence[str],
        repair: Repair | None,
    ) -> dict[str, Any]:
        reasons = Counter(verdict.reason for verdict in verdicts if verdict.reason)
        lists = {
            kind: [{"name": line["name"], "reason": line[kind]} for line in described if kind in line]
            for kind in ("broken", "duplicate")
        }
        totals = {
            "pictures": len(described),
            "described": len(verdicts),
            "continued": sum(bool(line.get("continued")) for line in described),
            "kept": sum(not verdict.reason for verdict in verdicts),
            "rejected": sum(reasons.values()),
            **{kind: len(lines) for kind, lines in lists.items()},
            "chosen by hand": sum(verdict.by_hand for verdict in verdicts),
        }
        bill = Bill(repair.price if repair else (0.0, 0.0))
        bill.add(repaired)
        asked = {
            "answers": bill.answers,
            "tries": bill.tries,
            "prompt_tokens": bill.read,
            "completion_tokens": bill.written,
            **({"cost": bill.cost} if repair else {}),
        }
        return {
            "kind": "curation",
            **self.identity,
            "totals": totals,
            "rejected": dict(sorted(reasons.items())),
            "repair": asked,
            **lists,
            "gone": list(gone),
        }


def _latest(log: Log) -> dict[str, dict[str, Any]]:
    """Name -> the last line on a picture."""
    return {line["name"]: line for line in log.lines}


def _object(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: no JSON object ({error}); delete the folder, and begin anew") from error


@dataclass(kw_only=True)
class _Verdict:
    """What becomes of a description."""

    key: str
    name: str
    original: str
    proposed: str
    """The text that the rules judged."""
    text: str
    """The same, or what a person made of it."""
    rule: str
    """Why the rules reject it; ""."""
    reason: str
    """The same, after a person chose."""
    by_hand: bool

    def shown(self, picture: bytes) -> Shown:
        return Shown(
            key=self.key, name=self.name, picture=picture, text=self.proposed, original=self.original, reason=self.rule
        )


def _verdict(
    line: Mapping[str, Any], answer: Mapping[str, Any] | None, rules: Rules, choice: Choice | None, asked: bool
) -> _Verdict:
    original = line["text"]
    if not original:
        proposed, rule = "", "nothing said"
    elif answer is None:
        proposed, rule = (original, "not repaired") if asked else rules.judge(original)
    else:
        proposed, rule = rules.judge(original, answer["text"], answer["cut"])
    text, reason = proposed, rule
    if choice is not None:
        text = proposed if choice.text is None else choice.text
        reason = ("" if text.strip() else "nothing said") if choice.keep else "by hand"
    return _Verdict(
        key=line["key"],
        name=line["name"],
        original=original,
        proposed=proposed,
        text=text,
        rule=rule,
        reason=reason,
        by_hand=choice is not None,
    )


class _Contents:
    """The bytes of described pictures, read again: None where they are not what they were."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.name: entry for entry in entries}

    def __call__(self, verdict: _Verdict) -> bytes | None:
        entry = self._entries.get(verdict.name)
        content = content_of(entry) if entry else ""
        return content if isinstance(content, bytes) and key_of(content) == verdict.key else None


@dataclass
class Log:
    """A file of JSON objects, one a line; threads may append. A last line that was cut short is taken away."""

    path: Path
    lines: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        content = self.path.read_bytes() if self.path.is_file() else b""
        whole, sign, rest = content.rpartition(b"\n")
        if rest:
            os.truncate(self.path, len(whole) + len(sign))
        try:
            self.lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise InputError(f"{self.path}: a line is no JSON object ({error}); take it out") from error

    def append(self, *values: Mapping[str, Any]) -> None:
        """Writes lines so that they are on the disk when this returns."""
        text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
        with self._lock, self.path.open("ab") as out:
            out.write(text.encode("utf-8", "backslashreplace"))
            out.flush()
            os.fsync(out.fileno())
            self.lines += [dict(value) for value in values]

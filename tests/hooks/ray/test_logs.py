"""The log of a run on a Ray cluster: in order, without gap or repetition, whatever it looks like, whoever reads on."""

from __future__ import annotations

import json
import random
import re
import threading
import time
import tracemalloc
from io import BytesIO
from urllib.parse import parse_qs, urlsplit

import pytest
from ray.dashboard.modules.log.log_agent import find_start_offset_last_n_lines_from_offset

from airflow_provider_glueray.core.errors import SubmitError
from airflow_provider_glueray.core.logs import LogCursor
from airflow_provider_glueray.core.runs import RunRef, RunState
from airflow_provider_glueray.hooks.dashboard import jobs_api, logs
from airflow_provider_glueray.hooks.dashboard.logs import (
    CHUNK_SIZE,
    END_LINES,
    LogOffset,
    lines_after,
    strip_status_bytes,
    tail_digest,
)
from tests.gates import waits_for

#: Its first line comes in two halves, the second with half a character; one ends as on Windows, one is no UTF-8.
AWKWARD = """
import sys, time
out = sys.stdout.buffer

def write(content):
    out.write(content)
    out.flush()
    time.sleep(0.2)

write(b"first ")
write(b"and last\\nh\\xc3")
write(b"\\xb6he \\xf0\\x9f\\x98\\x80\\r\\n50 %\\r")
write(b"100 %\\rnot \\xff text\\n\\n")
write("tick\\ntick\\ntick\\n".encode() * 3)
write(b"no end")
sys.exit(3)
"""
LINES = ["first and last", "höhe 😀", "50 %", "100 %", "not � text", "", *["tick"] * 9, "no end"]
#: Half a minute of work for a script that prints a lot: 20 MB.
LARGE = "for n in range(400_000):\n    print(f'line {n:08d} with some words that make it fifty')\n"


def seeds(count):
    """Return so many seeds: a few each time, all in the whole suite."""
    return [pytest.param(seed, marks=[pytest.mark.full] if seed >= 3 else []) for seed in range(count)]


def read_on(hook, ref, cursor=None, *, to_end=False):
    """Read what is new, as a process that knows the cursor only, and whether the run is over."""
    cursor = LogCursor.from_json(json.loads(json.dumps((cursor or LogCursor()).to_json())))._replace(to_end=to_end)
    for attempt in range(20):
        try:
            page = hook.read_logs({ref: cursor}, ["script"])[ref]
            break
        except SubmitError as error:  # a busy Ray has no answer for a moment; `follow` reads again, too
            if "cannot be told" not in str(error) or attempt == 19:
                raise
    return [line.text for line in page.lines], page.cursor


def read_all(hook, ref, pause=0.05):
    """Read until the run is over and its log has nothing new."""
    lines, cursor = read_on(hook, ref)
    while True:
        is_over = hook.describe([ref])[ref].is_over
        new, cursor = read_on(hook, ref, cursor, to_end=is_over)
        lines += new
        if is_over and not new:
            return lines
        time.sleep(pause)


#: How the lines begin that Ray itself writes into the log of a driver.
OF_RAY = re.compile(r"\d{4}-\d\d-\d\d .*job_manager|Running entrypoint for job")


def of_script(lines):
    """Leave Ray's own words out, which the newest says first, or, when it is busy, in the middle of a line."""
    kept, begun = [], ""
    for line in lines:
        if found := OF_RAY.search(line):
            begun += line[: found.start()]
        else:
            kept.append(begun + line)
            begun = ""
    return kept


@pytest.mark.parametrize(
    "words", ["2026-11-28 20:00:01,002\tINFO job_manager.py:1 -- set up", "Running entrypoint for job x: y"]
)
@pytest.mark.parametrize("begun", ["", "67"])
def test_what_ray_writes_in_the_middle_of_a_line_is_left_out(words, begun):
    after = [""] if begun else []
    assert of_script(["66", begun + words, *after, "68"]) == ["66", *([begun] if begun else []), "68"]


def test_awkward_lines(hook, make_spec, start):
    """Read far more often than lines are written, each time by somebody who has nothing but the cursor."""
    ref = start(hook, make_spec(AWKWARD))

    assert of_script(read_all(hook, ref)) == LINES
    assert hook.describe([ref])[ref].state is RunState.FAILED


@pytest.mark.full
def test_a_large_log(hook, make_spec, start, monkeypatch):
    """20 MB while they are written: each line once, and no read takes more than its share."""
    monkeypatch.setattr(logs, "LOG_BYTES", 1_000_000)
    ref = start(hook, make_spec(LARGE))
    pages, cursor, is_over = [], LogCursor(), False
    while not is_over or pages[-1]:
        is_over = hook.describe([ref])[ref].is_over
        lines, cursor = read_on(hook, ref, cursor, to_end=is_over)
        pages.append(of_script(lines))

    assert max(sum(len(line) + 1 for line in page) for page in pages) <= 1_000_000
    assert [line for page in pages for line in page] == [
        f"line {n:08d} with some words that make it fifty" for n in range(400_000)
    ]
    # Whoever reads on drops the 20 MB as they come.
    place = LogOffset.of(cursor)
    tracemalloc.start()
    lines, _ = read_on(hook, ref, place._replace(shown=place.shown - 49).to_cursor())
    assert lines == ["line 00399999 with some words that make it fifty"]
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_a_log_that_is_not_there_yet(hook, make_spec):
    """Neither of a run that has not begun nor of one that nobody knows."""
    assert read_on(hook, RunRef("ray-job", "tried", "glueray-gone")) == ([], LogCursor())
    node = hook._content(hook._ask("GET", "/api/v0/nodes"))["data"]["result"]["result"][0]["node_id"]
    cursor = LogOffset(0, node).to_cursor()
    assert read_on(hook, RunRef("ray-job", "tried", "glueray-gone"), cursor) == ([], cursor)


def test_an_answer_that_breaks_off(
    answering, forward, reply, new_cluster, at, make_spec, start, follow_to_end, tmp_path
):
    """Nothing of it is shown, and nothing is missing afterwards."""
    breaks = []
    gate = tmp_path / "gate"

    def break_off(handler):
        answer = forward(handler)
        if "/logs/file" in handler.path and len(breaks) < 2 and len(answer.content) > 10_000:
            breaks.append(len(answer.content))
            if len(breaks) == 2:
                gate.touch()
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(answer.content)))
            handler.end_headers()
            handler.wfile.write(answer.content[:-5000])
            handler.close_connection = True
            return
        reply(handler, answer.status_code, answer.content)

    hook = at(host=answering(break_off), password=new_cluster["password"])
    source = f"for n in range(3000):\n    print(n, flush=True)\n{waits_for(gate)}\n"
    ref = start(hook, make_spec(source))
    _, lines = follow_to_end(hook, ref)

    assert len(breaks) == 2
    assert of_script(lines) == [str(n) for n in range(3000)]


def test_a_log_that_takes_too_long(answering, forward, reply, new_cluster, at, make_spec, start, monkeypatch):
    """A read has its time, whatever comes and however slowly."""
    monkeypatch.setattr(logs, "READ_SECONDS", 1.0)

    def trickle(handler):
        answer = forward(handler)
        if "job-driver" not in handler.path:
            reply(handler, answer.status_code, answer.content)
            return
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"drop\n")
            time.sleep(0.1)

    hook = at(host=answering(trickle), password=new_cluster["password"])
    ref = start(hook, make_spec("import time\ntime.sleep(600)\n"))
    while hook.describe([ref])[ref].raw_state == "PENDING":
        time.sleep(0.2)
    began = time.monotonic()
    with pytest.raises(SubmitError, match="did not come within 1 seconds"):
        read_on(hook, ref)
    assert time.monotonic() - began < 5
    hook.stop(ref)


def test_one_log_that_cannot_be_read_holds_up_no_other(
    answering, forward, reply, new_cluster, at, make_spec, start, follow_to_end
):
    """Read by itself, it says so; read with others, it is passed over."""
    refs, is_broken = [], threading.Event()

    def refuse(handler):
        answer = forward(handler)
        # Not while the run is followed, which would wait a minute for the end of its log.
        broken = is_broken.is_set() and "/logs/file" in handler.path and refs[0].id in handler.path
        reply(handler, *((500, b"the disk is gone") if broken else (answer.status_code, answer.content)))

    hook = at(host=answering(refuse), password=new_cluster["password"])
    for _ in range(2):
        refs.append(start(hook, make_spec()))
        follow_to_end(hook, refs[-1])
    cursors = dict.fromkeys(refs, LogCursor())
    is_broken.set()

    pages = hook.read_logs(cursors, ["script"])
    assert (pages[refs[0]].lines, pages[refs[0]].cursor) == ((), LogCursor())
    assert "hello" in [line.text for line in pages[refs[1]].lines]
    with pytest.raises(SubmitError, match=r"did not hand over the log of Ray job .*: 500 the disk is gone"):
        read_on(hook, refs[0])


@pytest.mark.full
def test_a_large_log_that_rests(hook, make_spec, start, monkeypatch):
    """As long as nothing is written, only its end is asked for; when the run is over, all of it."""
    monkeypatch.setattr(jobs_api, "LARGE", 1_000)
    asked, opened = [], hook._open

    def count(method, path, **kwargs):
        asked.append(kwargs["params"]["lines"])
        return opened(method, path, **kwargs)

    ref = start(hook, make_spec("import time\nfor n in range(2000):\n    print(n, flush=True)\ntime.sleep(600)\n"))
    lines, cursor = read_on(hook, ref)
    for _ in range(200):
        new, cursor = read_on(hook, ref, cursor)
        lines += new
        # The end was looked at before the log, so it is known only when there was nothing new.
        if lines[-1:] == ["1999"] and not new:
            break
        time.sleep(0.2)
    monkeypatch.setattr(hook, "_open", count)
    for _ in range(5):
        assert read_on(hook, ref, cursor) == ([], cursor)
    assert asked == [END_LINES] * 5

    assert read_on(hook, ref, cursor, to_end=True)[0] == []
    assert asked[5:] == [-1]
    assert of_script(lines) == [str(n) for n in range(2000)]
    monkeypatch.undo()
    hook.stop(ref)


# -- the same, without a cluster ------------------------------------------------------------------------------


class Growing:
    """What answers as Ray does for one log; its own function says where the last lines of it begin."""

    def __init__(self, reply):
        self.reply = reply
        self.log = b""
        self.whole = 0
        #: What is written after each part that is handed over.
        self.next = []

    def answer(self, handler):
        query = parse_qs(urlsplit(handler.path).query)
        if "nodes" in handler.path:
            self.reply(handler, 200, b'{"data": {"result": {"result": [{"node_id": "n"}]}}}')
        elif query["filename"] == [jobs_api.NO_LOG]:
            self.reply(handler, 500, b"file is not found")
        else:
            lines = int(query["lines"][0])
            self.whole += lines == -1
            begin = 0 if lines == -1 else find_start_offset_last_n_lines_from_offset(BytesIO(self.log), -1, lines)
            part = self.log[begin:]
            self.log += self.next.pop(0) if self.next else b""
            self.reply(handler, 200, part)


@pytest.fixture
def growing(reply, answering, at, monkeypatch):
    """Return a log that a test writes, and what reads on in it: each time its end is looked at first."""
    monkeypatch.setattr(jobs_api, "LARGE", 0)
    monkeypatch.setattr(jobs_api, "END_LINES", 3)
    served = Growing(reply)
    hook, ref, cursor = (
        at(host=answering(lambda handler: served.answer(handler))),
        RunRef("ray-job", "tried", "r"),
        LogOffset(node="n").to_cursor(),
    )

    def read(*, to_end=False):
        nonlocal cursor
        lines, cursor = read_on(hook, ref, cursor, to_end=to_end)
        return lines

    return served, read


@pytest.mark.parametrize("most", [12, 1_000_000])
@pytest.mark.parametrize("seed", seeds(10))
def test_whatever_the_end_looks_like(seed, most, growing, monkeypatch):
    """Lines that repeat themselves, and halves: late perhaps, never twice, and all of them in the end."""
    monkeypatch.setattr(logs, "LOG_BYTES", most)
    served, read = growing
    dice, lines, rests = random.Random(seed), [], 0
    for _ in range(40):
        served.log += b"".join(dice.choices([b"", b"tick\n", b"a\n", b"b\n", b"half "], k=dice.choice([0, 1, 5])))
        lines += read()
        while new := read():
            assert most == 12
            lines += new
        whole = served.whole
        assert read() == []
        rests += served.whole == whole
    while new := read(to_end=True):
        lines += new

    whole = served.log.decode().removesuffix("\n").split("\n")
    assert rests
    assert "".join(lines) == "".join(whole)
    assert lines == whole or most == 12  # a line longer than a read comes in parts


def test_lines_that_are_said_once_more(growing):
    """As many as are looked at, word for word: shown with what comes next, or when the run is over."""
    served, read = growing
    served.log = b"a\nb\nc\n"
    assert read() == ["a", "b", "c"]
    served.log *= 2
    assert read() == []
    served.log += b"d\n"
    assert read() == ["a", "b", "c", "d"]
    served.log += b"b\nc\nd\n"
    assert read() == []
    assert read(to_end=True) == ["b", "c", "d"]


@pytest.mark.parametrize("when", [0, 1])
def test_what_is_written_while_it_is_read(when, growing):
    """After the end was looked at, or after the whole."""
    served, read = growing
    for line in ("a", "b", "c"):
        served.log += f"{line}\n".encode()
        served.next = [b""] * when + [f"more of {line}\n".encode()]
        assert [*read(), *read()] == [line, f"more of {line}"]


def test_more_than_one_read_takes(growing, monkeypatch):
    """Nothing is put off because the end of the log is the same."""
    monkeypatch.setattr(logs, "LOG_BYTES", 5)
    served, read = growing
    served.log = b"aaa\nbbb\nccc\n"
    assert [read() for _ in range(4)] == [["aaa"], ["bbb"], ["ccc"], []]


@pytest.mark.parametrize(
    ("end", "tells"),
    [
        (b"a\nb\nc\n", True),
        (b"only\n", True),
        (b"a\nb\nno end", True),
        (b"tick\ntick\n", False),
        (b"a\nb\na\nb\n", False),
        (b"a\nb\na\n", False),
        (b"50 %\n5", False),
        (b"a very long line" * 100_000, False),
    ],
)
def test_what_an_end_tells(end, tells):
    """Nothing, if the log could go on and end the same, or if it is as much as the log itself."""
    dice = random.Random(0)
    assert bool(tail_digest(cut(end, dice))) == tells
    assert tail_digest(cut(end, dice)) == tail_digest([end])


def cut(content: bytes, dice: random.Random) -> list[bytes]:
    """Cut at random places, as a network does."""
    places = sorted(dice.randrange(len(content) + 1) for _ in range(dice.randrange(8)))
    return [content[a:b] for a, b in zip([0, *places], [*places, len(content)], strict=True)]


@pytest.mark.parametrize("most", [7, 40, 1_000_000])
@pytest.mark.parametrize("seed", seeds(20))
def test_any_log_is_read_once(seed, most, monkeypatch):
    """However it grows, however it is cut, and whatever is in it; only a line longer than a read comes in parts."""
    dice = random.Random(seed)
    monkeypatch.setattr(logs, "LOG_BYTES", most)
    words = ["a", "tick", "höhe", "😀" * 3, "\n", "\n", "\r\n", "\r", "x" * 20]
    log = "".join(dice.choice(words) for _ in range(60)).encode()
    cursor, size, lines, new = LogCursor(), 0, [], []
    while size < len(log) or new:
        size = min(size + dice.randrange(30), len(log))
        new, cursor = lines_after(cut(log[:size], dice), LogOffset.of(cursor), to_end=size == len(log))
        lines += [line.text for line in new]

    whole = re.split(r"\r\n|\n|\r", log.decode())
    whole = whole if whole[-1] else whole[:-1]
    assert LogOffset.of(cursor) == LogOffset(len(log))
    assert "".join(lines) == "".join(whole)
    if most > len(log):
        assert lines == whole


def test_a_line_is_whole_unless_it_is_longer_than_a_read():
    place = LogOffset(node="n")
    for half in (b"half", b"half a line\r"):
        page = lines_after([half], place, to_end=False)
        assert (page.lines, LogOffset.of(page.cursor)) == ([], place)
    page = lines_after([b"half a line\r\n"], place, to_end=False)
    assert ([line.text for line in page.lines], LogOffset.of(page.cursor)) == (["half a line"], LogOffset(13, "n"))


def test_an_answer_that_is_too_short_changes_nothing():
    """While the run goes on the next read will do; when it is over, it must not pass for the end of the log."""
    place = LogOffset(10, "n")
    assert lines_after([b"short"], place, to_end=False) == ((), place.to_cursor())
    with pytest.raises(SubmitError, match="cut short: 5 bytes of a log that had 10 before"):
        lines_after([b"short"], place, to_end=True)


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE, 3 * CHUNK_SIZE + 7])
def test_marks_of_older_rays(size):
    """They stand where a piece begins, not where the network cuts."""
    dice = random.Random(size)
    log = bytes(dice.choices(b"01\n", k=size))
    sent = b"".join(b"1" + log[at : at + CHUNK_SIZE] for at in range(0, size, CHUNK_SIZE))

    assert b"".join(strip_status_bytes(cut(sent, dice))) == log
    with pytest.raises(SubmitError, match="could not read the log: no disk"):
        list(
            strip_status_bytes(
                cut(sent[: CHUNK_SIZE + 1] + b"0no disk", dice) if size >= CHUNK_SIZE else [b"0no", b" disk"]
            )
        )

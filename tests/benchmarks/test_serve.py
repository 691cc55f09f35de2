"""The CPU's benchmark with a tiny model and without peers: every row is there, whatever its figures."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serve import client, report
from benchmarks.serve.parties import Took, Worker, awake
from benchmarks.serve.rounds import Rates, measure
from benchmarks.serve.rows import Row, Sizes, rows
from benchmarks.serve.works import Way, Work, answer_rate, decode_rate, prompt_rate

ROOT = Path(__file__).parents[2]
SIZES = Sizes(64, 64, 512, 16, (8, 32))
WORK = Work("work", 4, 100, 11, decode_rate)
OURS, THEIRS, OTHERS = (Way(WORK, name) for name in ("ours", "theirs", "others"))
ROW = Row("some work", "a peer", OURS, (THEIRS, OTHERS), 1.5, 3)


@pytest.mark.slow
def test_a_tiny_model_gets_every_row_without_peers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serve", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(lines) == len(rows(SIZES, 1))
    unmeasured = [line for line in lines if "not measured" in line]
    assert len(unmeasured) == 6
    assert all("ENV was named" in line for line in unmeasured), unmeasured


def test_a_rate_counts_only_its_own_part_of_the_time() -> None:
    took = Took(first_seconds=2.0, all_seconds=7.0, tokens=11)
    assert decode_rate(WORK, took) == 10 / 5
    assert answer_rate(WORK, took) == 11 / 7
    assert prompt_rate(WORK, took) == 400 / 2


def test_a_peer_is_taken_at_its_best_setting_of_each_round() -> None:
    rates = Rates([{OURS.name: 6, THEIRS.name: 3, OTHERS.name: 2}] * 2)
    rates.rounds.append({OURS.name: 6, THEIRS.name: 1, OTHERS.name: 4})
    assert report.ratios(ROW, rates) == [2, 2, 1.5]
    assert "| 2.00 (1.50–2.00) | 1.5 | 3 |" in report.table([ROW], rates)


def test_a_missing_peer_is_a_row_that_says_why() -> None:
    rates = Rates([{OURS.name: 6}], {way.name: "it is not installed" for way in (THEIRS, OTHERS)})
    assert "| not measured: it is not installed | 1.5 | 3 |" in report.table([ROW], rates)


def test_both_settings_of_a_peer_are_held_against_the_same_prompts() -> None:
    work = Work("work", 3, 20, 4, answer_rate, shared_tokens=8)
    first, again, next_round = (work.ask(Bytes(), seed) for seed in ("1", "1", "2"))
    assert first == again
    assert {len(prompt) for prompt in first.prompts} == {20}
    assert len({tuple(prompt[:8]) for prompt in first.prompts}) == 1
    assert not set(map(tuple, first.prompts)) & set(map(tuple, next_round.prompts))


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: list[int]) -> str:
        return bytes(token_ids).decode()


ECHO = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if len(asked["prompts"][0]) > 30:
        print(json.dumps({"error": "too long"}), flush=True)
    else:
        print(json.dumps({"first_seconds": 1, "all_seconds": 2, "tokens": 4}), flush=True)
"""


def test_a_party_sleeps_while_it_is_not_asked_and_its_errors_are_its_rows() -> None:
    party = Worker([sys.executable, "-c", ECHO], {})
    try:
        with awake(party):
            assert state_of(party.process.popen.pid) != "T"
        os.waitid(os.P_PID, party.process.popen.pid, os.WSTOPPED)
        assert state_of(party.process.popen.pid) == "T"
        short, long = (
            Way(Work(name, 1, tokens, 4, answer_rate), "echo")
            for name, tokens in (("short", 20), ("long", 40))
        )
        rates = measure({"echo": party}, Bytes(), [[short], [long]], {}, 2)
    finally:
        party.process.end()
    assert rates.rounds == [{short.name: 2.0}] * 2
    assert rates.missing == {long.name: "too long"}
    assert party.process.popen.returncode == -signal.SIGTERM


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_client_says_when_the_first_token_came_and_how_many_there_were() -> None:
    async def run() -> dict[str, float]:
        async with await asyncio.start_server(stream_three, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await client.ask_all(port, [{"prompt": "a"}, {"prompt": "b"}])

    said = asyncio.run(run())
    assert said["tokens"] == 6
    assert 0 < said["first_seconds"] <= said["all_seconds"]


def test_the_client_fails_with_what_the_server_said() -> None:
    async def run() -> None:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            await client.ask_all(server.sockets[0].getsockname()[1], [{"prompt": "a"}])

    with pytest.raises(RuntimeError, match="status 429"):
        asyncio.run(run())


async def stream_three(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    events = ['{"choices": [{"text": "a"}]}', '{"usage": {"completion_tokens": 3}}', "[DONE]"]
    for event in events:
        data = f"data: {event}\n\n"
        writer.write(f"{len(data):x}\r\n{data}\r\n".encode())
    writer.write(b"0\r\n\r\n")
    writer.close()


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull")
    writer.close()

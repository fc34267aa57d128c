#!/usr/bin/env python3
"""From a piece of work to its pay: evaluations per second with a judge that takes no time, end to end.

    scripts/bench_rewards.py [--engine target/release/p2engine] [--rounds 3] [--conversations 2000] [--single 50]

Each round has an engine of its own (`up`, embedded, a commit per batch, offline models) with so many conversations of one
answer. Then all answers are judged at once (`eval backfill`, an expression): the time from the command to the last reward on
the ledger. Then answers are judged one by one by an evaluator with a trigger: the time from the artifact that ends a run to
the ledger's transaction. Prints a line of JSON per round and one with the medians.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.request

EVALUATORS = """
{kind: evaluator, id: at_once, type: expression, score: failure is none, rewards: {}}
---
{kind: evaluator, id: live, type: expression, score: failure is none, rewards: {}, trigger: {finished: root}}
"""


class Engine:
    def __init__(self, binary):
        self.binary = str(pathlib.Path(binary).resolve())
        self.dir = tempfile.mkdtemp(prefix="p2-bench-rewards-")
        self.settings = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "P2_"))}
        self.settings["P2_DATA_DIR"] = self.dir
        self.process = subprocess.Popen([self.binary, "up"], env=self.settings, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        api = pathlib.Path(self.dir, "api.json")
        while not api.exists():
            assert self.process.poll() is None and time.monotonic() < end, "the engine does not start"
            time.sleep(0.02)
        endpoint = json.loads(api.read_text())
        self.url, self.token = endpoint["url"], endpoint["token"]

    def command(self, *words):
        told = subprocess.run([self.binary, "--json", *words], env=self.settings, check=True, text=True,
                              capture_output=True).stdout
        return json.loads(told.strip().splitlines()[-1])

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v1/{path}", data, headers)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            return json.load(answer)

    def say(self, conversation):
        text = {"agent": "agent_alpha", "branch": None, "text": "hey"}
        self.call("inbox?wait=outcome", {"conversation": conversation, "body": {"UserText": text}})

    def transactions(self):
        return self.call("ledger/books/main")["transactions"]

    def paid(self, transactions):
        end = time.monotonic() + 300
        while self.transactions() < transactions:
            assert time.monotonic() < end, "not everything was paid"
            time.sleep(0.005)

    def settled(self):
        """Waits until nothing is awaited in any conversation."""
        end = time.monotonic() + 300
        while any(one["open_waits"] for one in self.call("conversations")):
            assert time.monotonic() < end, "not everything was answered"
            time.sleep(0.1)

    def cpu_s(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def one_round(options):
    engine = Engine(options.engine)
    try:
        engine.command("ledger", "init", "--treasury", "10000000")
        names = [f"c{number}" for number in range(options.conversations)]
        with concurrent.futures.ThreadPoolExecutor(50) as pool:
            list(pool.map(engine.say, names))
        definitions = pathlib.Path(engine.dir, "evaluators.yml")
        definitions.write_text(EVALUATORS)
        engine.settled()
        engine.command("apply", str(definitions))
        before, cpu, begin = engine.transactions(), engine.cpu_s(), time.monotonic()
        found = engine.command("eval", "backfill", "--evaluator", "at_once")
        judged = time.monotonic() - begin
        assert found["scored"] == options.conversations, found
        engine.paid(before + options.conversations)
        took = time.monotonic() - begin
        line = {"conversations": options.conversations, "evaluated_per_s": round(options.conversations / judged, 1),
                "paid_per_s": round(options.conversations / took, 1),
                "cpu_ms_each": round((engine.cpu_s() - cpu) * 1000 / options.conversations, 3)}
        latencies = [single(engine, f"s{number}") for number in range(options.single)]
        latencies.sort()
        line |= {"single_p50_ms": statistics.median(latencies), "single_p99_ms": latencies[int(len(latencies) * 0.99)]}
        assert not engine.command("ledger", "verify")["differences"]
        return line
    finally:
        engine.stop()


def single(engine, name):
    """From the end of a run to its pay, milliseconds, by the times of the records."""
    before = engine.transactions()
    engine.say(name)
    engine.paid(before + 1)
    artifacts = engine.call(f"artifacts?conversation={name}")
    ended = next(one for one in artifacts if one["body"].get("Event", {}).get("name") == "agent_finished")
    paid = next(one for one in artifacts if "Payment" in one["body"])
    return paid["time_ms"] - ended["time_ms"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="target/release/p2engine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=2_000)
    parser.add_argument("--single", type=int, default=50)
    options = parser.parse_args()
    lines = []
    for _ in range(options.rounds):
        lines.append(one_round(options))
        print(json.dumps(lines[-1]), flush=True)
    print(json.dumps({"medians": {key: statistics.median(line[key] for line in lines) for key in lines[0]}}))


if __name__ == "__main__":
    main()

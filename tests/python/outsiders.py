"""The programs of examples/python against a real engine on real services, in both framings.

Needs what examples/python/requirements.txt names, and in the environment P2_ENGINE (the binary), P2_KAFKA_BROKERS and
P2_SCHEMA_REGISTRY_URL; P2_SCYLLA_NODES too where the stacks are to lie in a CQL store. Topics and keyspace are made
anew under a name of their own. Files stay where something failed.

First the engine runs without the registry (single-object encoding), then with it on the same topics, so that they
hold both framings.
"""

import json
import os
import pathlib
import secrets
import signal
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "python"
WAIT_SECONDS = 180
RUN = secrets.token_hex(4)
DIR = pathlib.Path(tempfile.mkdtemp(prefix="p2-outsiders-"))
ENGINE = os.environ["P2_ENGINE"]
REGISTRY = os.environ["P2_SCHEMA_REGISTRY_URL"]
os.environ.update(P2_KAFKA_PREFIX=f"t{RUN}.", P2_SCYLLA_KEYSPACE=f"t{RUN}", P2_DATA_DIR=str(DIR / "data"),
                  P2_SCRIPTS_DIR=str(DIR / "scripts"))
sys.path.insert(0, str(EXAMPLES))
import wire  # noqa: E402 - reads the environment
from confluent_kafka import TopicPartition  # noqa: E402

# Started in the background of a shell, this program ignores SIGINT, and its children would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
running = []


def environment(framed):
    without = {name: value for name, value in os.environ.items() if name != "P2_SCHEMA_REGISTRY_URL"}
    return {**without, "P2_SCHEMA_REGISTRY_URL": REGISTRY} if framed else without


def engine(framed, *words, code=0):
    done = subprocess.run([ENGINE, *words], env=environment(framed), capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def start(framed, name, *command):
    """A process in the background; its output goes to files."""
    out, err = (DIR / f"{name}.out").open("a"), (DIR / f"{name}.err").open("a")
    process = subprocess.Popen(command, env=environment(framed), stdout=out, stderr=err)
    running.append(process)
    return process


def example(framed, name, *words):
    return start(framed, name, sys.executable, "-u", str(EXAMPLES / f"{name}.py"), *words)


def end(process, how=signal.SIGTERM):
    if process in running:
        running.remove(process)
    process.send_signal(how)
    return process.wait(60)


def until(what, find):
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        found = find()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {WAIT_SECONDS} s: {what}")


def say(framed, conversation, text, *words, code=0):
    command = [sys.executable, str(EXAMPLES / "say.py"), conversation, text, *words]
    done = subprocess.run(command, env=environment(framed), capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert done.returncode == code, f"say {conversation} {text}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def answers():
    path = DIR / "follow_answers.out"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def answer_of(conversation, text):
    def find():
        return next((one for one in answers() if one["conversation"] == conversation and one["text"] == text), None)

    return until(f"{conversation} is answered '{text}', see {DIR / 'follow_answers.out'}", find)


def records(short):
    """Every committed record of a topic, as (record, value)."""
    topic, codec = wire.topic_name(short), wire.Codec(short)
    consumer = wire.consumer(f"test-{RUN}", **{"enable.partition.eof": True})
    partitions = sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    open_ends, found = set(partitions), []
    while open_ends:
        message = consumer.poll(WAIT_SECONDS)
        assert message is not None, f"{topic} is not read to its end"
        if message.error():
            open_ends.discard(message.partition())
        else:
            found.append(message)
    consumer.close()
    return [(message, codec) for message in found]


def is_framed(message):
    return message.value()[:1] == b"\0"


def letters():
    return {value["code"]: value for value in (codec.decode(message.value()) for message, codec in records("dead-letters"))}


def plain_codec(short):
    """As of a program that knows of no registry."""
    wire.REGISTRY = ""
    codec = wire.Codec(short)
    wire.REGISTRY = REGISTRY
    return codec


def produce(conversation, value, headers):
    producer = wire.producer()
    producer.produce(wire.topic_name("inbox"), key=conversation, value=value, headers=headers)
    assert producer.flush(30) == 0


def set_up():
    shutil.copytree(EXAMPLES / "scripts", DIR / "scripts")
    rule = "  - when: { last: user, contains: nobody }\n    reply: { tool_calls: [{ name: nobody, arguments: {} }] }\n"
    late = "  - when: { last: tool, tool: nobody, result_contains: deadline }\n    reply: { text: Nobody came. }\n"
    speller = DIR / "scripts" / "speller.yml"
    speller.write_text(speller.read_text().replace("rules:\n", f"rules:\n{rule}{late}"))
    tools = (EXAMPLES / "tools.yml").read_text().replace("[reverse_text]", "[reverse_text, nobody]")
    (DIR / "tools.yml").write_text(
        tools + "---\nkind: tool\nid: nobody\ndescription: Nobody carries this out.\nparameters: {type: object}\n"
        "executor: external\nidempotent: true\ntimeout_ms: 2000\n")
    engine(False, "topics", "apply", "--partitions", "4")
    if os.environ.get("P2_SCYLLA_NODES"):
        engine(False, "store", "apply")


def conversations(framed, name, count):
    """Many calls while the executor is killed again and again."""
    tool = example(framed, "reverse_tool")
    for number in range(count):
        words = ["--agent", "speller"]
        assert say(framed, f"{name}-{number}", "backwards: stressed", *words)["verdict"] == "Applied"
        if number % 3 == 1:
            end(tool, signal.SIGKILL)
            tool = example(framed, "reverse_tool")
    for number in range(count):
        answer_of(f"{name}-{number}", "It is desserts.")
    again = say(framed, f"{name}-0", "backwards: stressed", "--agent", "speller")
    assert again["verdict"] == "Duplicate", again
    end(tool)
    return count


def nobody_answers(framed, name):
    """The deadline of a call is the engine's: an executor that never answers holds nothing up."""
    assert say(framed, name, "ask nobody", "--agent", "speller")["verdict"] == "Applied"
    answer_of(name, "Nobody came.")


def evaluations(framed):
    """The evaluations of judge.py, by id; one that was written twice would be an id twice."""
    found = json.loads(engine(framed, "eval", "list", "--evaluator", "brief", "--limit", "0", "--json"))
    return {one["id"]: one for one in found}


def judged(framed, name, count):
    """An evaluator of somebody else: every answer is judged once, whoever is killed, and a request is met."""
    engine(framed, "apply", str(EXAMPLES / "evaluators.yml"))
    judge = example(framed, "judge")
    of = [f"{name}-{number}" for number in range(count)]

    def all_judged():
        found = [one["conversation"] for one in evaluations(framed).values() if one["conversation"] in of]
        return len(found) >= count and found

    until("the answers are judged", lambda: evaluations(framed))
    end(judge, signal.SIGKILL)
    judge = example(framed, "judge")
    found = until("all answers are judged", all_judged)
    end(judge, signal.SIGKILL)  # the next one remembers no answer
    judge = example(framed, "judge")
    assert sorted(found) == sorted(of), "each answer once"
    for one in evaluations(framed).values():
        body = one["body"]["Evaluation"]
        assert body["score"] == 1.0 and body["metrics"]["words"] > 0, body
    again = ("eval", "run", of[0], "--evaluator", "brief", "--again", f"asked in {name}", "--json")
    asked = json.loads(engine(framed, *again))
    assert asked["body"]["Evaluation"]["occasion"] == f"asked in {name}", asked
    written = [codec.decode(message.value()) for message, codec in records("artifacts")]
    ids = [one["id"] for one in written if one["body"][0] == "p2.Evaluation"]
    assert len(ids) == len(set(ids)), "an evaluation was written twice"
    end(judge)


def one_round(framed, name):
    served = start(framed, f"up-{name}", ENGINE, "up", "--json")
    until("the engine is up", lambda: (DIR / f"up-{name}.out").read_text() or served.poll() is not None)
    engine(framed, "apply", str(DIR / "tools.yml"))
    follower = example(framed, "follow_answers")
    calls = conversations(framed, name, 6)
    judged(framed, name, 6)
    nobody_answers(framed, f"{name}-nobody")
    produce(f"{name}-bad", b"no value at all", [("ce_id", wire.id_of(RUN, name, "bad").encode())])
    until("a value that is none is a dead letter", lambda: "not_single_object" in letters())
    end(follower, signal.SIGINT)
    return served, calls


def check_calls(calls):
    """Each call was answered once, by the executor and nobody else."""
    effects = {}
    for message, codec in records("effects"):
        kind, body = codec.decode(message.value())["body"]
        if kind == "p2.CallTool" and body["tool"] == "reverse_text":
            effects[wire.header(message, "ce_id")] = message
    outcomes = []
    for message, codec in records("inbox"):
        try:
            kind, body = codec.decode(message.value())["body"]
        except ValueError:
            continue  # what this test wrote to be refused
        if kind == "p2.ToolOutcome":
            outcomes.append(body["effect"])
            assert wire.header(message, "ce_source") == "/example/reverse-text"
            assert message.partition() == effects[body["effect"]].partition(), "the same key, the same partition"
    assert sorted(outcomes) == sorted(effects), f"{len(effects)} calls, {len(outcomes)} answers"
    assert len(effects) == calls, f"{len(effects)} calls of {calls}"


def main():
    set_up()
    served, calls = one_round(False, "plain")
    assert end(served) == 0
    before = {short: len(records(short)) for short in ("inbox", "state-transitions", "effects", "artifacts", "registry")}
    assert all(not is_framed(message) for short in before for message, _ in records(short))

    engine(True, "topics", "apply", "--partitions", "4")
    tools = DIR / "tools.yml"
    tools.write_text(tools.read_text().replace("Spells a text backwards.", "Turns a text around."))
    served, more = one_round(True, "framed")
    # A conversation from before goes on, and who still writes the other framing is understood.
    body = ("p2.UserText", {"agent": None, "branch": None, "text": "backwards: drawer"})
    value = plain_codec("inbox").encode({"conversation": "plain-0", "body": body})
    produce("plain-0", value, [("ce_id", wire.id_of(RUN, "late").encode())])
    tool, follower = example(True, "reverse_tool"), example(True, "follow_answers")
    answer_of("plain-0", "It is reward.")
    end(tool), end(follower)
    value = b"\0" + (4_000_000).to_bytes(4, "big") + b"datum"
    produce("framed-bad", value, [("ce_id", wire.id_of(RUN, "unknown id").encode())])
    letter = until("an unknown schema id is a dead letter", lambda: letters().get("unknown_schema_id"))
    assert "4000000" in letter["reason"], letter["reason"]
    for short, count in before.items():
        written = [is_framed(message) for message, _ in records(short)]
        assert any(written) and not all(written), f"{short} holds both framings"
        assert sum(not framed for framed in written) <= count + 4, f"{short}: the engine writes with ids now"
    check_calls(calls + more + 1)
    engine(True, "replay", "stacks", "--verify")
    assert end(served) == 0
    if os.environ.get("P2_SCYLLA_NODES"):
        engine(True, "replay", "stacks", "--rebuild")
    engine(True, "replay", "stacks", "--verify")
    print(f"outsiders: {calls + more + 1} calls answered once each, in both framings")


if __name__ == "__main__":
    passed = False
    try:
        main()
        passed = True
    finally:
        for process in list(running):
            end(process, signal.SIGKILL)
        if passed:
            shutil.rmtree(DIR, ignore_errors=True)
        else:
            print(f"files: {DIR}", file=sys.stderr)

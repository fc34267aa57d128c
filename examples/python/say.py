"""A producer: says something to an agent and waits for what became of it.

    python say.py CONVERSATION TEXT [--agent AGENT] [--id ID]

The record is keyed by its conversation. Its ce_id is made from conversation and text, or from --id: sent again, it
is answered as a duplicate and changes nothing. The outcome is an artifact of the kind InputOutcome that names the
ce_id; it comes as soon as the message is on the agent's stack, before the agent has answered.
"""

import argparse
import json
import sys
import time

import wire
from confluent_kafka import TopicPartition

WAIT_SECONDS = 60


def ends(consumer, topic):
    """Reads from here on: what is said below can only be answered after this."""
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    return [TopicPartition(topic, p, consumer.get_watermark_offsets(TopicPartition(topic, p))[1]) for p in partitions]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("conversation")
    parser.add_argument("text")
    parser.add_argument("--agent", help="who answers; needed for the first message only")
    parser.add_argument("--id", help="anything that names this message; a repetition has the same")
    said = parser.parse_args()
    ce_id = wire.id_of("say.py", said.conversation, said.id or said.text)

    artifacts, consumer = wire.Codec("artifacts"), wire.consumer("example.say")
    consumer.assign(ends(consumer, wire.topic_name("artifacts")))

    body = ("p2.UserText", {"agent": said.agent, "branch": None, "text": said.text})
    value = wire.Codec("inbox").encode({"conversation": said.conversation, "body": body})
    failed = []
    producer = wire.producer()
    producer.produce(
        wire.topic_name("inbox"), key=said.conversation, value=value,
        headers=wire.headers(ce_id, "p2.inbox.user_text", "/example/say", said.conversation),
        on_delivery=lambda error, _: failed.append(error) if error else None,
    )
    if producer.flush(30) or failed:
        sys.exit(f"not written: {failed or 'no broker answers'}")

    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        message = consumer.poll(1.0)
        if message is None or message.error() or message.key() != said.conversation.encode():
            continue
        kind, outcome = artifacts.decode(message.value())["body"]
        if kind == "p2.InputOutcome" and outcome["input"] == ce_id:
            print(json.dumps({"id": ce_id, **outcome["outcome"]}))
            sys.exit(0 if outcome["outcome"]["verdict"] in ("Applied", "Duplicate") else 3)
    sys.exit(f"no outcome of {ce_id} within {WAIT_SECONDS} s: does an agent-step run?")


if __name__ == "__main__":
    main()

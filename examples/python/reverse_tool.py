"""A tool executor: carries out the tool `reverse_text`, which is declared with `executor: external` (tools.yml).

    python reverse_tool.py

A consumer group of its own on p2.effects.v1. The engine's own executor leaves effects of such tools alone. Answers go
to p2.inbox.v1 in one transaction with the progress of the group: each effect is answered exactly once, however often
this is killed and however many of it run. The answer's id is made from the effect's, so that even an answer that is
written twice counts once. What the tool itself does is at least once: hand effect["id"] on as idempotency key.
"""

import json
import os
import time

import wire
from confluent_kafka import KafkaException

GROUP = "example.reverse-text"
TOOL = "reverse_text"
INBOX = wire.topic_name("inbox")


def call(arguments):
    """The tool: gives (status, result)."""
    text = arguments.get("text")
    if not isinstance(text, str):
        return "Error", {"message": "Argument 'text' must be a text."}
    return "Success", {"text": text[::-1]}


def answer(codec, message):
    """The answer to an effect as (key, value, headers), or None where it is not for us."""
    effect = codec["effects"].decode(message.value())
    kind, body = effect["body"]
    if kind != "p2.CallTool" or body["tool"] != TOOL:
        return None
    begin = time.monotonic()
    if effect["not_after_ms"] is not None and time.time() * 1000 > effect["not_after_ms"]:
        status, result = "Expired", {"message": "The time for this call had passed; it was not done."}
    else:
        status, result = call(json.loads(body["arguments"]))
    outcome = {
        "effect": effect["id"], "wait": body["wait"], "call_id": body["call_id"],  # copied from the effect
        "status": status, "result": json.dumps(result), "reward": None,
        "latency_ms": int((time.monotonic() - begin) * 1000),
    }
    value = {"conversation": effect["conversation"], "body": ("p2.ToolOutcome", outcome)}
    ce_id = wire.id_of("reverse_tool.py", effect["id"])
    heads = wire.headers(ce_id, "p2.inbox.tool_outcome", "/example/reverse-text", effect["conversation"], effect["id"])
    return effect["conversation"], codec["inbox"].encode(value), heads


def one(consumer, producer, codec, message):
    """Answer and progress, both or none."""
    reply = answer(codec, message)
    if reply is None and message.offset() % 1000:
        return  # of effects that are for others it is enough to remember every thousandth
    producer.begin_transaction()
    if reply:
        key, value, heads = reply
        producer.produce(INBOX, key=key, value=value, headers=heads)
        producer.flush()  # before the offsets: otherwise each transaction costs 100 ms
    positions = consumer.position(consumer.assignment())
    producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
    producer.commit_transaction()
    if reply:
        print(json.dumps({"conversation": reply[0], "effect": wire.header(message, "ce_id")}), flush=True)


def main():
    codec = {short: wire.Codec(short) for short in ("effects", "inbox")}
    # One name per running copy, the same after a restart: what a copy had when it died goes on at once.
    copy = os.environ.get("COPY", "0")
    consumer = wire.consumer(GROUP, **{"group.instance.id": f"{GROUP}.{copy}", "session.timeout.ms": 15_000})
    producer = wire.producer(**{"transactional.id": f"{GROUP}.{copy}", "transaction.timeout.ms": 10_000})
    producer.init_transactions(30)
    consumer.subscribe([wire.topic_name("effects")])
    try:
        while True:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                raise SystemExit(f"Kafka: {message.error()}")
            try:
                one(consumer, producer, codec, message)
            except KafkaException as error:
                if not error.args[0].txn_requires_abort():
                    raise  # whoever supervises this starts it again; it goes on where the last commit was
                producer.abort_transaction()
                raise SystemExit("the transaction was aborted: start again to go on")
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()


if __name__ == "__main__":
    main()

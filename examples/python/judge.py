"""An evaluator outside of the engine: judges how brief answers are (evaluators.yml declares it as type: topic).

    python judge.py

A consumer group of its own on p2.effects.v1, where every answer to a person is a PublishReply with its text, and on
p2.artifacts.v1, where an event `evaluation_requested` asks for an evaluation (p2engine eval run trip --evaluator brief).
Evaluations go to p2.artifacts.v1 in one transaction with the progress of the group. Their ids are made as the engine
makes them, so that whatever is judged twice is the same evaluation, and `p2engine eval list` shows them beside all
others. A request for an answer that this process has not seen is met by looking for it in the log.
"""

import hashlib
import json
import os
import time
from collections import OrderedDict

import wire
from confluent_kafka import KafkaError, KafkaException, TopicPartition

GROUP = "example.judge"
EVALUATOR, VERSION = "brief", 1
WORDS_MAX = 40
REMEMBERED_MAX = 10_000
ARTIFACTS, EFFECTS = wire.topic_name("artifacts"), wire.topic_name("effects")
LOOK_SECONDS = 30


def id_of(*parts):
    """The first 32 hex digits of the SHA-256 of a compact JSON text: as the engine names targets and evaluations."""
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def judgement(text):
    """The evaluator: gives (score, metrics, comment)."""
    words = len(text.split())
    score = 1.0 if words <= WORDS_MAX else max(0.0, 2.0 - words / WORDS_MAX)
    return score, {"words": float(words)}, f"{words} words, {WORDS_MAX} are enough"


def evaluation(place, text, occasion="first", request=None):
    """The record, as (id, value). `place` is (conversation, agent, branch, entry); no text: an error."""
    conversation, agent, branch, entry = place
    target = id_of("target", *place)
    score, metrics, comment, error = None, {}, "", None
    if text is None:
        error = {"code": "no_target", "message": "there is no such answer in the log (any more)"}
    else:
        score, metrics, comment = judgement(text)
    body = {
        "target": target, "evaluator": EVALUATOR, "version": VERSION, "occasion": occasion, "score": score,
        "metrics": metrics, "comment": comment, "samples": int(score is not None), "spread": None, "agreement": None,
        "judges": [], "calls": 0, "prompt_tokens": None, "completion_tokens": None, "cost_usd": "0", "latency_ms": 0,
        "content": hashlib.sha256((text or "").encode()).hexdigest(), "same_as": None, "request": request, "error": error,
    }
    ce_id = id_of("evaluation", target, EVALUATOR, VERSION, occasion)
    return ce_id, {
        "id": ce_id, "conversation": conversation, "agent": agent, "branch": branch, "entry": entry, "parents": [],
        "time_ms": int(time.time() * 1000), "body": ("p2.Evaluation", body),
    }


def place_of(value):
    return value["conversation"], value["agent"], value["branch"]


def looked_up(codec, wanted, partition):
    """The text of an answer that is not remembered; None where the log has none. Both topics have the same key and the
    same number of partitions, so it is in the partition that has the same number."""
    consumer = wire.consumer(f"{GROUP}.looks", **{"enable.partition.eof": True})
    consumer.assign([TopicPartition(EFFECTS, partition, 0)])
    try:
        while (message := consumer.poll(LOOK_SECONDS)) and not message.error():
            value = codec["effects"].decode(message.value())
            kind, body = value["body"]
            if kind == "p2.PublishReply" and (*place_of(value), body["entry"]) == wanted:
                return body["text"]
        if message is None or message.error().code() != KafkaError._PARTITION_EOF:
            raise SystemExit(f"Kafka: {EFFECTS} was not read to its end: {message and message.error()}")
        return None
    finally:
        consumer.close()


def judged(codec, message, texts):
    """The evaluation that follows from a record, or None."""
    short = "artifacts" if message.topic() == ARTIFACTS else "effects"
    value = codec[short].decode(message.value())
    kind, body = value["body"]
    if kind == "p2.PublishReply":
        place = (*place_of(value), body["entry"])
        texts[place] = body["text"]
        while len(texts) > REMEMBERED_MAX:
            texts.popitem(last=False)
        return evaluation(place, body["text"])
    if kind == "p2.Event" and body["name"] == "evaluation_requested":
        wanted = json.loads(body["data"])
        place = (*place_of(value), value["entry"])
        if wanted["evaluator"] == EVALUATOR and wanted.get("version") in (None, VERSION):
            text = texts.get(place) or looked_up(codec, place, message.partition())
            return evaluation(place, text, wanted["occasion"], value["id"])
    return None


def one(consumer, producer, codec, message, texts):
    """Evaluation and progress, both or none."""
    found = judged(codec, message, texts)
    if found is None and message.offset() % 1000:
        return  # of records that are for others it is enough to remember every thousandth
    producer.begin_transaction()
    if found:
        ce_id, value = found
        cause = wire.header(message, "ce_id")
        heads = wire.headers(ce_id, "p2.artifact.evaluation", "/example/judge", value["conversation"], cause)
        producer.produce(ARTIFACTS, key=value["conversation"], value=codec["artifacts"].encode(value), headers=heads)
        producer.flush()  # before the offsets: otherwise each transaction costs 100 ms
    positions = consumer.position(consumer.assignment())
    producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
    producer.commit_transaction()
    if found:
        print(json.dumps({"evaluation": found[0], "score": found[1]["body"][1]["score"]}), flush=True)


def main():
    codec = {short: wire.Codec(short) for short in ("effects", "artifacts")}
    copy, texts = os.environ.get("COPY", "0"), OrderedDict()
    consumer = wire.consumer(GROUP, **{"group.instance.id": f"{GROUP}.{copy}", "session.timeout.ms": 15_000})
    producer = wire.producer(**{"transactional.id": f"{GROUP}.{copy}", "transaction.timeout.ms": 10_000})
    producer.init_transactions(30)
    consumer.subscribe([EFFECTS, ARTIFACTS])
    try:
        while True:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                raise SystemExit(f"Kafka: {message.error()}")
            try:
                one(consumer, producer, codec, message, texts)
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

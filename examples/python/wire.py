"""The wire contract of p2engine's topics, as far as an outsider needs it: docs/topics.md says the same in words."""

import hashlib
import io
import json
import os
import pathlib
import time

import fastavro
import requests
from confluent_kafka import Consumer, Producer

BROKERS = os.environ.get("P2_KAFKA_BROKERS", "127.0.0.1:9092")
PREFIX = os.environ.get("P2_KAFKA_PREFIX", "")
REGISTRY = os.environ.get("P2_SCHEMA_REGISTRY_URL", "").rstrip("/")  # empty: single-object encoding
SCHEMAS = pathlib.Path(os.environ.get("P2_SCHEMAS", pathlib.Path(__file__).resolve().parents[2] / "schemas"))


def topic_name(short):
    return f"{PREFIX}p2.{short}.v1"


def id_of(*parts):
    """A deterministic id, 32 hex digits: the same parts give the same id, so a repetition is seen as one."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:32]


class Codec:
    """Values of one topic, read in either framing, written with the registry's ids where there is a registry."""

    def __init__(self, short):
        self.short, self.by_head, self.seen = short, {}, {}
        # Every version that was ever published, so that old records stay readable. The newest is the last.
        files = sorted((SCHEMAS / "history" / short).glob("*.avsc"), key=lambda path: int(path.stem))
        for text in [path.read_text() for path in files]:
            head = fingerprint(text)
            self.by_head[head] = fastavro.parse_schema(json.loads(text), {})
            self.newest, self.head = self.by_head[head], b"\xc3\x01" + head
        if REGISTRY:
            body = {"schema": text}
            reply = requests.post(f"{REGISTRY}/subjects/{topic_name(short)}-value/versions", json=body, timeout=10)
            reply.raise_for_status()
            self.head = b"\0" + reply.json()["id"].to_bytes(4, "big")

    def encode(self, value):
        out = io.BytesIO()
        out.write(self.head)
        fastavro.schemaless_writer(out, self.newest, value)
        return out.getvalue()

    def decode(self, data):
        if data[:2] == b"\xc3\x01":
            head, datum = data[2:10], data[10:]
        elif data[:1] == b"\0" and REGISTRY:
            number, datum = int.from_bytes(data[1:5], "big"), data[5:]
            if number not in self.seen:  # asked once per id
                reply = requests.get(f"{REGISTRY}/schemas/ids/{number}", timeout=10)
                if reply.status_code == 404:
                    raise ValueError(f"the registry has no schema {number}")
                reply.raise_for_status()
                self.seen[number] = fingerprint(reply.json()["schema"])
            head = self.seen[number]
        else:
            raise ValueError("neither single-object encoding nor registry framing (is P2_SCHEMA_REGISTRY_URL set?)")
        if head not in self.by_head:
            raise ValueError(f"{self.short}: no published schema has the fingerprint {head.hex()}")
        return fastavro.schemaless_reader(io.BytesIO(datum), self.by_head[head], return_record_name=True)


def fingerprint(schema):
    """What names a schema in single-object encoding: 8 bytes, little endian, of its canonical form."""
    canonical = fastavro.schema.to_parsing_canonical_form(json.loads(schema))
    # fastavro gives the bytes in the order in which they are on the wire.
    return bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))


def headers(ce_id, ce_type, source, subject, cause=None):
    """CloudEvents in the binary mode of the Kafka binding. ce_id is the idempotency key; p2_cause what led here."""
    now = time.gmtime()
    pairs = {
        "ce_specversion": "1.0", "ce_id": ce_id, "ce_type": ce_type, "ce_source": source, "ce_subject": subject,
        "ce_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", now), "content-type": "application/avro",
        "p2_cause": cause or ce_id,
    }
    return [(name, value.encode()) for name, value in pairs.items()]


def header(message, name):
    return next((value.decode() for key, value in message.headers() or [] if key == name), None)


def producer(**more):
    """murmur2 is the partitioner of Java's clients and of the engine; librdkafka's own default is another."""
    return Producer({"bootstrap.servers": BROKERS, "partitioner": "murmur2", "enable.idempotence": True, **more})


def consumer(group, **more):
    """read_committed: what a transaction of the engine wrote and gave up again is never seen."""
    settings = {"bootstrap.servers": BROKERS, "group.id": group, "isolation.level": "read_committed",
                "auto.offset.reset": "earliest", "enable.auto.commit": False, **more}
    return Consumer(settings)
